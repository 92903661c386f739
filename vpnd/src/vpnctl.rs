//! How `vpnctl` prints what the daemon says for a human.

use std::fmt::{Display, Write};

use time::macros::format_description;

use crate::api::{Method, Milestones, Outcome, Status};
use crate::certificate::Summary;

/// The status as a table of two columns, at `now` seconds of `CLOCK_BOOTTIME`.
#[must_use]
pub fn table(status: &Status, now: f64) -> String {
    let mut table = Table(String::new());
    table.row("State", format!("{}, for {}", status.state, duration(now - status.since)));
    table.optional("Cause", status.cause.as_ref());
    table.optional("Device", status.device_id.as_ref());
    table.optional("Gateway", status.gateway.as_ref());
    table.list("Addresses", &status.addresses);
    table.list("Routes", &status.routes);
    table.list("DNS", &status.dns);
    let counters = &status.counters;
    table.row(
        "Traffic",
        format!(
            "sent {} in {} packets, received {} in {} packets",
            bytes(counters.tx_bytes),
            counters.tx_packets,
            bytes(counters.rx_bytes),
            counters.rx_packets
        ),
    );
    if let Some(certificate) = &status.certificate {
        let (subject, serial, until) = (&certificate.subject, &certificate.serial, until(certificate));
        table.row("Certificate", format!("{subject}, until {until}, serial {serial}"));
    }
    let milestones = since_boot(&status.milestones);
    if !milestones.is_empty() {
        table.row("Since boot", milestones);
    }
    table.0
}

/// How the device proves who it is, as a table of two columns, at `now` seconds of `CLOCK_BOOTTIME`.
#[must_use]
pub fn authentication(status: &Status, now: f64) -> String {
    let Status { authentication, certificate, .. } = status;
    let mut table = Table(String::new());
    let method = match authentication.method {
        Method::Tpm => "key in the TPM 2.0",
        Method::Pkcs11 => "key on a card (PKCS #11)",
        Method::Pkcs12 => "key in a file with a PIN (PKCS #12)",
        Method::Bound => "key in a file that opens on this machine only",
        Method::Pem => "key in a file (PEM)",
    };
    table.row("Method", method);
    table.row("Key", &authentication.key);
    if let Some(certificate) = certificate {
        table.row("Subject", &certificate.subject);
        table.row("Issuer", &certificate.issuer);
        table.row("Valid until", until(certificate));
        table.row("Serial", &certificate.serial);
    }
    match &authentication.last {
        None => table.row("Last result", "none yet"),
        Some(Outcome { accepted: true, at, .. }) => {
            table.row("Last result", format!("accepted by the gateway, {} ago", duration(now - at)));
        }
        Some(Outcome { reason, at, .. }) => {
            let reason = reason.as_deref().unwrap_or("no reason given");
            table.row("Last result", format!("{reason}, {} ago", duration(now - at)));
        }
    }
    table.0
}

fn until(certificate: &Summary) -> String {
    let until = certificate.not_after.format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC"));
    until.unwrap_or_else(|_| certificate.not_after.to_string())
}

struct Table(String);

impl Table {
    fn row(&mut self, name: &str, value: impl Display) {
        // Writing into a string does not fail.
        let _ = writeln!(self.0, "{name:<12}{value}");
    }

    fn optional(&mut self, name: &str, value: Option<&impl Display>) {
        if let Some(value) = value {
            self.row(name, value);
        }
    }

    fn list(&mut self, name: &str, values: &[impl Display]) {
        let name = std::iter::once(name).chain(std::iter::repeat(""));
        for (name, value) in name.zip(values) {
            self.row(name, value);
        }
    }
}

fn since_boot(milestones: &Milestones) -> String {
    let points = [
        ("daemon", milestones.started),
        ("key made", milestones.key_made),
        ("enrolled", milestones.enrolled),
        ("tunnel", milestones.tunnel_up),
    ];
    let known = points.into_iter().filter_map(|(name, time)| time.map(|time| format!("{name} {time:.1} s")));
    known.collect::<Vec<_>>().join(", ")
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::Board;

    #[test]
    fn a_connected_device() {
        let mut status = Board::default().status();
        status.state = crate::state::StateName::Connected;
        status.since = 10.0;
        status.device_id = Some("dev-0123456789abcdef".to_owned());
        status.gateway = Some("https://gateway.example".parse().unwrap());
        status.addresses = vec!["10.99.0.2/32".parse().unwrap(), "fd99::2/128".parse().unwrap()];
        status.counters.tx_bytes = 1_234_567;
        status.milestones.tunnel_up = Some(9.87);
        status.milestones.started = None;
        assert_eq!(
            table(&status, 3700.5),
            "State       Connected, for 1 h 1 min\n\
             Device      dev-0123456789abcdef\n\
             Gateway     https://gateway.example\n\
             Addresses   10.99.0.2/32\n            fd99::2/128\n\
             Traffic     sent 1.2 MB in 0 packets, received 0 B in 0 packets\n\
             Since boot  tunnel 9.9 s\n"
        );
    }

    #[test]
    fn a_device_that_was_let_in_and_one_that_was_not() {
        let mut status = Board::default().status();
        status.authentication.key = "/etc/m2mvpn/device.key".to_owned();
        let text = "Method      key in a file (PEM)\nKey         /etc/m2mvpn/device.key\n";
        assert_eq!(authentication(&status, 10.0), format!("{text}Last result none yet\n"));
        status.authentication.last = Some(Outcome { accepted: true, reason: None, at: 8.0 });
        assert_eq!(authentication(&status, 10.0), format!("{text}Last result accepted by the gateway, 2 s ago\n"));
        status.authentication.method = Method::Pkcs11;
        let refused = Outcome { accepted: false, reason: Some("the card's PIN is wrong".to_owned()), at: 0.0 };
        status.authentication.last = Some(refused);
        status.certificate = Some(Summary {
            subject: "CN=atm-0001".to_owned(),
            issuer: "CN=Example root".to_owned(),
            not_after: time::macros::datetime!(2027-01-02 03:04 UTC),
            serial: "0a".to_owned(),
        });
        assert_eq!(
            authentication(&status, 70.0),
            "Method      key on a card (PKCS #11)\nKey         /etc/m2mvpn/device.key\n\
             Subject     CN=atm-0001\nIssuer      CN=Example root\nValid until 2027-01-02 03:04 UTC\n\
             Serial      0a\nLast result the card's PIN is wrong, 1 min 10 s ago\n"
        );
    }

    #[test]
    fn numbers_are_rounded_for_humans() {
        assert_eq!(duration(-1.0), "0 s");
        assert_eq!(duration(61.0), "1 min 1 s");
        assert_eq!(duration(90_000.0), "1 d 1 h");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(1500), "1.5 kB");
    }
}
