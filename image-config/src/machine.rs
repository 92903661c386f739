//! The machine's serial number, from its firmware.

use std::fs;
use std::path::Path;

use m2m_protocol::names::Token;

/// Where a serial number may stand, best first, below the root directory.
const SOURCES: [&str; 4] = [
    "sys/class/dmi/id/product_serial",
    "sys/class/dmi/id/board_serial",
    "sys/firmware/devicetree/base/serial-number",
    "etc/machine-id",
];

/// What makers leave in the field when they do not number their machines.
const PLACEHOLDERS: [&str; 11] = [
    "0",
    "00000000",
    "0123456789",
    "123456789",
    "default string",
    "none",
    "not applicable",
    "not specified",
    "system serial number",
    "to be filled by o.e.m.",
    "uninitialized",
];

/// The serial number of the machine whose root directory is `root`: SMBIOS, else the device tree, else the machine id.
/// `None` if none of them says anything.
#[must_use]
pub fn serial(root: &Path) -> Option<Token> {
    SOURCES.iter().find_map(|source| serial_from(&fs::read_to_string(root.join(source)).ok()?))
}

/// The serial number that a field of the firmware holds, with every character that a [`Token`] cannot have replaced
/// by a hyphen; `None` for an empty field or a maker's placeholder.
fn serial_from(field: &str) -> Option<Token> {
    let field = field.trim_matches(|character: char| character.is_whitespace() || character == '\0');
    if PLACEHOLDERS.contains(&field.to_ascii_lowercase().as_str()) {
        return None;
    }
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let text: String = field
        .chars()
        .map(|character| if is_allowed(character) { character } else { '-' })
        .skip_while(|character| !character.is_ascii_alphanumeric())
        .take(64)
        .collect();
    text.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_best_source_wins_and_placeholders_do_not_count() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        assert_eq!(serial(root.path()), None);
        put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        assert_eq!(serial(root.path()).unwrap().as_str(), "0123456789abcdef0123456789abcdef");
        put("sys/firmware/devicetree/base/serial-number", "10000000abcd\0");
        assert_eq!(serial(root.path()).unwrap().as_str(), "10000000abcd");
        put("sys/class/dmi/id/product_serial", "To be filled by O.E.M.\n");
        assert_eq!(serial(root.path()).unwrap().as_str(), "10000000abcd");
        put("sys/class/dmi/id/product_serial", " SN/0001 x\n");
        assert_eq!(serial(root.path()).unwrap().as_str(), "SN-0001-x");
    }

    proptest! {
        #[test]
        fn whatever_the_firmware_says_is_a_token_or_nothing(field in ".*") {
            let alphanumeric = field.chars().any(|character| character.is_ascii_alphanumeric());
            if serial_from(&field).is_some() {
                prop_assert!(alphanumeric);
            }
        }
    }
}
