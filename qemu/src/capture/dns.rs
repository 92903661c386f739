/// Names in the question section of a DNS message, lower case, without the final dot (RFC 1035, section 4.1).
///
/// None when the message is not well formed that far or asks nothing.
pub(super) fn questions(message: &[u8]) -> Option<Vec<String>> {
    const HEADER: usize = 12;
    let count = u16::from_be_bytes([*message.get(4)?, *message.get(5)?]);
    if count == 0 {
        return None;
    }
    let mut offset = HEADER;
    let mut names = Vec::new();
    for _ in 0..count {
        let (name, end) = name(message, offset)?;
        message.get(end..end + 4)?; // type and class
        offset = end + 4;
        names.push(name);
    }
    Some(names)
}

/// An uncompressed name and the offset behind it; a question has no reason to be compressed.
fn name(message: &[u8], mut offset: usize) -> Option<(String, usize)> {
    const LONGEST_LABEL: usize = 63;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(offset)?);
        offset += 1;
        if length == 0 {
            return Some((labels.join("."), offset));
        }
        if length > LONGEST_LABEL {
            return None;
        }
        let label = message.get(offset..offset + length)?;
        labels.push(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
        offset += length;
    }
}

#[cfg(test)]
pub(super) fn query(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_question_is_read_in_lower_case() {
        assert_eq!(questions(&query("Gateway.EXAMPLE")).unwrap(), ["gateway.example"]);
    }

    #[test]
    fn a_cut_question_is_none() {
        let message = query("gateway.example");
        for end in 0..message.len() {
            assert_eq!(questions(&message[..end]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = questions(&bytes);
        }
    }
}
