//! What the failure of a handshake with a server means, and what is said of it.

use m2m_tunnel::session::CloseReason;
use rustls::CertificateError;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::Clock;

/// Why a handshake failed, as far as the two sides' trust is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrust {
    /// This device does not trust the server.
    OfServer(String),
    /// The server does not trust this device.
    OfDevice(String),
}

/// What a failed TLS handshake over TCP says; `None` when it failed for another reason.
#[must_use]
pub fn of_tls(error: &std::io::Error, clock: &Clock) -> Option<Distrust> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(reason) => {
            let late = matches!(
                reason,
                CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
            );
            Some(Distrust::OfServer(server(&reason.to_string(), late, clock)))
        }
        rustls::Error::AlertReceived(alert) if is_about_certificates(u8::from(*alert)) => {
            Some(Distrust::OfDevice(device(u8::from(*alert))))
        }
        _ => None,
    }
}

/// What the end of a tunnel, or of the attempt at one, says; `None` when it ended for another reason.
#[must_use]
pub fn of_tunnel(reason: &CloseReason, clock: &Clock) -> Option<Distrust> {
    match reason {
        CloseReason::Distrusted { alert, text } if is_about_certificates(*alert) => {
            Some(Distrust::OfServer(server(text, *alert == CERTIFICATE_EXPIRED, clock)))
        }
        CloseReason::TlsAlert { alert, .. } if is_about_certificates(*alert) => {
            Some(Distrust::OfDevice(device(*alert)))
        }
        _ => None,
    }
}

// TLS alerts (RFC 8446 section 6.2).
const BAD_CERTIFICATE: u8 = 42;
const UNSUPPORTED_CERTIFICATE: u8 = 43;
const CERTIFICATE_REVOKED: u8 = 44;
const CERTIFICATE_EXPIRED: u8 = 45;
const CERTIFICATE_UNKNOWN: u8 = 46;
const UNKNOWN_CA: u8 = 48;
const ACCESS_DENIED: u8 = 49;
const CERTIFICATE_REQUIRED: u8 = 116;

fn is_about_certificates(alert: u8) -> bool {
    matches!(
        alert,
        BAD_CERTIFICATE
            | UNSUPPORTED_CERTIFICATE
            | CERTIFICATE_REVOKED
            | CERTIFICATE_EXPIRED
            | CERTIFICATE_UNKNOWN
            | UNKNOWN_CA
            | ACCESS_DENIED
            | CERTIFICATE_REQUIRED
    )
}

fn server(reason: &str, late: bool, clock: &Clock) -> String {
    let mut text = format!("the server's certificate is not trusted: {reason}");
    if late {
        let now =
            i64::try_from(clock.now().as_secs()).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
        let now = now.and_then(|now| now.format(&Rfc3339).ok()).unwrap_or_default();
        text.push_str(&format!("; this machine takes the time to be {now}: its clock may be wrong"));
        if clock.is_behind() {
            text.push_str(" (the system's clock is earlier still, and is not believed)");
        }
    }
    text
}

fn device(alert: u8) -> String {
    let reason = match alert {
        CERTIFICATE_REVOKED => "it is revoked",
        CERTIFICATE_EXPIRED => "it has expired, or one of the two clocks is wrong",
        UNKNOWN_CA => "it was not issued by an authority that the server trusts",
        CERTIFICATE_REQUIRED => "it was not shown",
        _ => "the server gives no reason",
    };
    format!("the server does not accept this device's certificate: {reason} (TLS alert {alert})")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock::open("/nonexistent/clock".into(), None)
    }

    #[test]
    fn a_certificate_out_of_its_time_points_at_the_clock() {
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let Some(Distrust::OfServer(text)) = of_tls(&std::io::Error::other(expired), &clock()) else { unreachable!() };
        assert!(text.contains("clock may be wrong"), "{text}");
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let Some(Distrust::OfServer(text)) = of_tls(&std::io::Error::other(unknown), &clock()) else { unreachable!() };
        assert!(!text.contains("clock"), "{text}");
    }

    #[test]
    fn a_revoked_device_is_told_apart_from_a_lost_connection() {
        let revoked = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked);
        let distrust = of_tls(&std::io::Error::other(revoked), &clock());
        assert!(matches!(distrust, Some(Distrust::OfDevice(text)) if text.contains("revoked")));
        assert_eq!(of_tls(&std::io::Error::from(std::io::ErrorKind::ConnectionReset), &clock()), None);
        assert_eq!(of_tunnel(&CloseReason::TimedOut, &clock()), None);
        let alert = |alert| of_tunnel(&CloseReason::TlsAlert { alert, text: String::new() }, &clock());
        assert!(matches!(alert(CERTIFICATE_REVOKED), Some(Distrust::OfDevice(_))));
        assert_eq!(alert(80), None);
    }
}
