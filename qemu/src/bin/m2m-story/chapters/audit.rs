//! The capture of the whole story.

use std::time::Duration;

use anyhow::ensure;
use m2m_lab::{Frame, Policy, capture};

use crate::story::Story;

pub(super) fn tell(story: &mut Story) -> anyhow::Result<()> {
    story.step("the capture of the whole story has no packet that must not be there", |story| {
        story.machine.power_cut();
        let frames = capture::read(&story.lab.finish_capture()?)?;
        ensure!(frames.len() > 100, "there are only {} packets", frames.len());
        let leaks = Policy::lab().audit(&frames);
        let shown: Vec<_> = leaks.iter().take(10).map(ToString::to_string).collect();
        ensure!(leaks.is_empty(), "{} packets leaked:\n{}", leaks.len(), shown.join("\n"));
        story.figures().packets = Some(frames.len());
        Ok(format!("{} packets", frames.len()))
    })?;
    story.step("one packet that is planted in a copy of it is found", |story| {
        let original = story.lab.captured()?;
        let copy = original.with_extension("planted");
        std::fs::copy(&original, &copy)?;
        capture::append(&copy, &planted())?;
        let leaks = Policy::lab().audit(&capture::read(&copy)?);
        ensure!(leaks.len() == 1, "the audit finds {} packets", leaks.len());
        ensure!(leaks[0].summary.contains("198.51.100.99"), "the audit finds {}", leaks[0]);
        Ok(leaks[0].to_string())
    })
}

/// A datagram in the clear from the device to somewhere in the internet.
fn planted() -> Frame {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]; // Ethernet, IPv4
    bytes.extend([0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 20, 198, 51, 100, 99]);
    bytes.extend([0x10, 0, 0x10, 0xe1, 0, 12, 0, 0]); // UDP, port 4096 to 4321
    bytes.extend(b"leak");
    Frame { time: Duration::from_secs(1), bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planted_packet_is_a_leak() {
        let verdict = Policy::lab().judge(&planted().bytes);
        assert_eq!(verdict, Err("UDP 192.0.2.20 port 4096 to 198.51.100.99 port 4321".to_owned()));
    }
}
