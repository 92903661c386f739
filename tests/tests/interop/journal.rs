//! What the independent implementation wrote down (`tests/interop/journal.py`).

use std::{fs, path::PathBuf, time::Duration};

use m2m_lab::wait_for;
use serde_json::Value;

use crate::flow::Protocol;

const LIMIT: Duration = Duration::from_secs(15);
/// More than any packet of the tunnel carries of a TCP connection: its MTU.
const LARGEST_PACKET: usize = 1500;

/// A journal, perhaps still being written.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
}

impl Journal {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Whether something has happened by now.
    pub(crate) fn has(&self, event: &str) -> bool {
        self.events().any(|entry| entry["event"] == event)
    }

    /// Waits until something has happened.
    pub(crate) fn wait_for(&self, event: &str) {
        let what = format!("{event:?} in {}", self.path.display());
        wait_for(&what, LIMIT, || Ok(self.has(event).then_some(()))).unwrap();
    }

    /// Checks that a connection's settings have these among them.
    pub(crate) fn assert_settings(&self, direction: &str, expected: Value) {
        let settings: Vec<_> = self.of("settings", direction).map(|mut entry| entry["settings"].take()).collect();
        assert!(!settings.is_empty(), "no settings {direction} in {}", self.path.display());
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(settings[0].get(name), Some(value), "setting {name} of {settings:?}");
        }
    }

    /// The fields of all requests in one direction, sorted: their order says nothing.
    pub(crate) fn requests(&self, direction: &str) -> Vec<Value> {
        self.sections("request", direction)
    }

    /// The fields of all answers in one direction, sorted.
    pub(crate) fn responses(&self, direction: &str) -> Vec<Value> {
        self.sections("response", direction)
    }

    /// All capsules in one direction but packets, in order.
    pub(crate) fn capsules(&self, direction: &str) -> Vec<Value> {
        let capsules =
            self.of("capsule", direction).map(|entry| without(entry, &["time", "event", "direction", "stream"]));
        capsules.filter(|capsule| capsule["type"] != "DATAGRAM" && !is_reserved(capsule)).collect()
    }

    /// Checks that packets went both ways as `protocol` has them, enough for what two connections carried.
    pub(crate) fn assert_packets(&self, protocol: Protocol, bytes: usize) {
        for direction in ["sent", "received"] {
            let packets = ["datagram", "capsule"].into_iter().flat_map(|event| self.of(event, direction));
            let first: Vec<_> = packets
                .filter(|entry| entry.get("context_id").is_some())
                .map(|entry| without(entry, &["time", "direction", "length"]))
                .collect();
            assert_eq!(first, [protocol.first_packet()], "first packet {direction} in {}", self.path.display());
        }
        let closed: Vec<_> = self.events().filter(|entry| entry["event"] == "closed").collect();
        let [closed] = closed.as_slice() else { panic!("expected one end of a tunnel: {closed:?}") };
        let least = (2 * bytes / LARGEST_PACKET) as u64;
        for count in ["packets_sent", "packets_received"] {
            assert!(closed[count].as_u64() > Some(least), "fewer than {least} packets: {closed}");
        }
    }

    fn sections(&self, event: &str, direction: &str) -> Vec<Value> {
        let sorted = |entry: Value| {
            let mut fields = entry["fields"].as_array().unwrap().clone();
            fields.sort_by_key(Value::to_string);
            Value::from(fields)
        };
        self.of(event, direction).map(sorted).collect()
    }

    fn of<'a>(&'a self, event: &'a str, direction: &'a str) -> impl Iterator<Item = Value> + 'a {
        self.events().filter(move |entry| entry["event"] == event && entry["direction"] == direction)
    }

    fn events(&self) -> impl Iterator<Item = Value> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let lines: Vec<_> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(str::to_owned).collect();
        lines.into_iter().map(|line| serde_json::from_str(&line).unwrap())
    }
}

fn without(mut entry: Value, names: &[&str]) -> Value {
    entry.as_object_mut().unwrap().retain(|name, _| !names.contains(&name.as_str()));
    entry
}

/// Whether a capsule is of a type that is reserved to be ignored (RFC 9297 section 5.4).
fn is_reserved(capsule: &Value) -> bool {
    let number = capsule["type"].as_str().unwrap().strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
    number.is_some_and(|number| number.unwrap() % 0x29 == 0x17)
}
