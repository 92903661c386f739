//! Who is let in. Pure: facts in, verdict out.

use crate::store::DeviceState;

/// What is known about a device that has proved its endorsement key.
#[derive(Debug, Clone)]
pub(super) struct Facts<'a> {
    /// The serial number that it states.
    pub(super) serial: &'a str,
    /// What the manager remembers of this endorsement key: state and serial number.
    pub(super) known: Option<(DeviceState, &'a str)>,
    /// The id of an approved device with another endorsement key that has the same serial number.
    pub(super) serial_held_by: Option<&'a str>,
    /// Whether the endorsement key is in the allow list.
    pub(super) allowed: bool,
    /// What its certificate is worth.
    pub(super) endorsement: Endorsement,
}

/// What an endorsement key certificate is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endorsement {
    /// The device sent none.
    Missing,
    /// No accepted CA issued it, or it is not valid: the sentence says which.
    NotAccepted(String),
    /// An accepted CA issued it.
    By {
        /// The CA's name.
        ca: String,
        /// The serial numbers for which this CA's word is enough.
        serials: Vec<String>,
    },
}

/// What becomes of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It gets its certificate; the sentence says why.
    Accept(String),
    /// An administrator has to approve it; the sentence says why.
    Wait(String),
    /// It was revoked.
    Refuse,
}

/// Decides about a device.
pub(super) fn decide(facts: &Facts<'_>) -> Verdict {
    match facts.known {
        Some((DeviceState::Revoked, _)) => return Verdict::Refuse,
        Some((DeviceState::Approved, serial)) if serial == facts.serial => {
            return Verdict::Accept("it was let in before".to_owned());
        }
        Some((DeviceState::Approved | DeviceState::Pending, _)) | None => {}
    }
    // A serial number proves nothing; only the device that was first let in under it may go on using it.
    if let Some(other) = facts.serial_held_by {
        return Verdict::Wait(format!(
            "the serial number {} belongs to device {other}, which has another TPM",
            facts.serial
        ));
    }
    if facts.allowed {
        return Verdict::Accept("its endorsement key is in the allow list".to_owned());
    }
    match &facts.endorsement {
        Endorsement::By { ca, serials } if serials.iter().any(|pattern| matches(pattern, facts.serial)) => {
            Verdict::Accept(format!("its endorsement key was certified by {ca}"))
        }
        Endorsement::By { ca, .. } => Verdict::Wait(format!(
            "its endorsement key was certified by {ca}, but the serial number {} is none of those accepted from there",
            facts.serial
        )),
        Endorsement::NotAccepted(reason) => {
            Verdict::Wait(format!("its endorsement key is not in the allow list, and {reason}"))
        }
        Endorsement::Missing => {
            Verdict::Wait("its endorsement key is not in the allow list, and has no certificate".to_owned())
        }
    }
}

/// Whether `pattern`, in which `*` stands for any characters and `?` for one, describes `text`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when the last star has to take one more character.
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t + 1));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after_star, taken)) = retry else { return false };
                (p, t) = (after_star, taken);
                retry = Some((after_star, taken + 1));
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stranger(endorsement: Endorsement) -> Facts<'static> {
        Facts { serial: "SN-1", known: None, serial_held_by: None, allowed: false, endorsement }
    }

    fn by(serials: &[&str]) -> Endorsement {
        Endorsement::By { ca: "CN=Maker".to_owned(), serials: serials.iter().map(|text| (*text).to_owned()).collect() }
    }

    fn accepted(facts: &Facts<'_>) -> bool {
        matches!(decide(facts), Verdict::Accept(_))
    }

    #[test]
    fn strangers() {
        assert!(!accepted(&stranger(Endorsement::Missing)));
        assert!(!accepted(&stranger(Endorsement::NotAccepted("no".to_owned()))));
        assert!(!accepted(&stranger(by(&[]))));
        assert!(!accepted(&stranger(by(&["ATM-*"]))));
        assert!(accepted(&stranger(by(&["ATM-*", "SN-?"]))));
        assert!(accepted(&Facts { allowed: true, ..stranger(Endorsement::Missing) }));
    }

    #[test]
    fn a_serial_number_that_is_taken_has_to_be_approved_whoever_vouches() {
        let facts = Facts { serial_held_by: Some("dev-2"), allowed: true, ..stranger(by(&["*"])) };
        let Verdict::Wait(reason) = decide(&facts) else { unreachable!() };
        assert!(reason.contains("SN-1") && reason.contains("dev-2"), "{reason}");
        // The administrator's word stands above that.
        assert!(accepted(&Facts { known: Some((DeviceState::Approved, "SN-1")), ..facts }));
    }

    #[test]
    fn known_devices() {
        let known = |state, serial| Facts { known: Some((state, serial)), ..stranger(Endorsement::Missing) };
        assert!(accepted(&known(DeviceState::Approved, "SN-1")));
        assert!(!accepted(&known(DeviceState::Pending, "SN-1")));
        assert!(!accepted(&known(DeviceState::Approved, "SN-2")), "a changed serial number is looked at again");
        let revoked = Facts { allowed: true, ..known(DeviceState::Revoked, "SN-1") };
        assert_eq!(decide(&revoked), Verdict::Refuse);
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "SN-1", true),
            ("", "", true),
            ("", "a", false),
            ("SN-?", "SN-1", true),
            ("SN-?", "SN-", false),
            ("SN-*1", "SN-1-1", true),
            ("SN-*1", "SN-1-2", false),
            ("*a*b*", "xaxbx", true),
            ("*a*b*", "xbxax", false),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_text_matches_itself_with_stars_anywhere(text in "[a-c.-]{0,12}", at in 0usize..13) {
            let at = at.min(text.len());
            let starred = format!("{}*{}", &text[..at], &text[at..]);
            proptest::prop_assert!(matches(&text, &text) && matches(&starred, &text));
            let longer = format!("{text}x");
            proptest::prop_assert!(!matches(&text, &longer));
        }
    }
}
