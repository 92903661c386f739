//! How long things may take, and how long they are waited for.

use std::time::Duration;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// HTTP/3 has this long before HTTP/2 races it.
pub(super) const HTTP2_LATER: Duration = ms(200);
/// An uplink or gateway has this long before the next one in line is tried, too.
pub(super) const NEXT_IN_LINE: Duration = s(1);
/// As [`NEXT_IN_LINE`], when all of them have failed before.
pub(super) const NEXT_IN_LINE_AGAIN: Duration = ms(250);
/// A fresh HTTP/3 connection beside a silent one, in case only this one's path is broken.
pub(super) const SAME_AGAIN: Duration = ms(300);
/// What is better than the first that came up has this long to come up, too.
pub(super) const GRACE: Duration = s(2);
/// A link that was replaced still takes packets that are in flight.
pub(super) const OVERLAP: Duration = s(2);

/// An attempt ends after this long: three round trips of the slowest links there are.
pub(super) const ATTEMPT: Duration = s(15);
/// As [`ATTEMPT`], for something better beside a link that works.
pub(super) const ATTEMPT_BETTER: Duration = s(10);
/// An attempt without answer is repeated beside the old one after this long, because its own repetitions get rare (RFC 9002 section 6.2).
pub(super) const AGAIN: Duration = s(3);
/// How many attempts run at once, at most.
pub(super) const MOST_ATTEMPTS: usize = 16;
/// A new attempt may take the place of one that is older than this.
pub(super) const PATIENCE: Duration = s(8);

/// For this long after a loss the waits stay short.
pub(super) const OUTAGE_IS_YOUNG: Duration = s(600);
/// The first and the longest wait in that time. A device is back within this and a handshake of its gateway's return.
pub(super) const YOUNG: (Duration, Duration) = (s(1), s(4));
/// The waits after that.
pub(super) const OLD: (Duration, Duration) = (s(8), s(60));
/// The waits for a gateway that refused: somebody has to decide.
pub(super) const REFUSED: (Duration, Duration) = (s(60), s(1800));
/// A gateway that ends loses all its devices at one moment; they try again spread over this time.
pub(super) const SPREAD: Duration = s(1);
/// Devices that have no other gateway than the one that leaves come back spread over this time.
pub(super) const LEAVING_SPREAD: Duration = s(2);

/// An address that changed, a link that came back: how long until the gateway's answer has to be there.
pub(super) const CONFIRM: Duration = ms(700);
/// How often and how many times a link on probation has to answer, and for how long it may try.
pub(super) const PROBE: Duration = s(1);
pub(super) const PROBES: u32 = 3;
pub(super) const PROBATION: Duration = s(6);

/// HTTP/3 while HTTP/2 carries the tunnel.
pub(super) const HTTP3_AGAIN: (Duration, Duration) = (s(30), s(600));
/// The same over an uplink where each byte costs.
pub(super) const HTTP3_AGAIN_METERED: (Duration, Duration) = (s(30), s(7200));
/// HTTP/3 that carried the tunnel for this long works, and its end is news.
pub(super) const HTTP3_IS_STABLE: Duration = s(600);
/// A better uplink that did not work.
pub(super) const UPLINK_AGAIN: (Duration, Duration) = (s(15), s(300));
/// The preferred gateway.
pub(super) const GATEWAY_AGAIN: (Duration, Duration) = (s(240), s(480));
/// The same over an uplink where each byte costs.
pub(super) const GATEWAY_AGAIN_METERED: (Duration, Duration) = (s(1800), s(7200));

/// Losses of an uplink count for this long.
pub(super) const LOSSES_COUNT: Duration = s(600);
/// How long a better uplink has to be there before it is used, by its losses.
pub(super) const HOLD_DOWN: [Duration; 8] = [s(0), s(3), s(10), s(30), s(60), s(120), s(240), s(300)];
/// How long even the only uplink has to be there, by its losses: one that comes and goes each moment is no use.
pub(super) const SETTLE: [Duration; 8] = [s(0), s(0), s(0), s(0), ms(250), ms(500), s(1), s(2)];

/// Silences that ended by themselves count for this long.
pub(super) const ALARMS_COUNT: Duration = s(120);
/// How long a silence lasts before anything is opened, by the false alarms before it.
pub(super) const ALARM_DELAY: [Duration; 6] = [s(0), s(0), ms(250), ms(500), s(1), s(2)];

/// The step of such a table.
pub(super) fn step(table: &[Duration], count: usize) -> Duration {
    table.get(count).or(table.last()).copied().unwrap_or_default()
}
