//! Who a device is, by the certificate that TLS has verified.

use m2m_protocol::names::Token;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

/// The URI of a device's subject alternative name begins so; its id follows.
const URI_PREFIX: &str = "urn:m2mvpn:device:";

/// What the gateway needs of a device's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceCertificate {
    /// The device: the common name, which the subject alternative name repeats.
    pub(crate) device: Token,
    /// The issuer's name, DER.
    pub(crate) issuer: Vec<u8>,
    /// The serial number, big endian, without leading zeros.
    pub(crate) serial: Vec<u8>,
}

impl DeviceCertificate {
    /// Reads the leaf of a chain.
    ///
    /// # Errors
    /// [`NotADevice`] when it does not name one device.
    pub(crate) fn read(leaf: &CertificateDer<'_>) -> Result<Self, NotADevice> {
        let (_, certificate) = x509_parser::parse_x509_certificate(leaf).map_err(|_| NotADevice::Malformed)?;
        let mut names = certificate.subject().iter_common_name();
        let (Some(name), None) = (names.next(), names.next()) else { return Err(NotADevice::CommonName) };
        let device: Token = name.as_str().ok().and_then(|name| name.parse().ok()).ok_or(NotADevice::CommonName)?;

        let alternatives = certificate.subject_alternative_name().map_err(|_| NotADevice::Malformed)?;
        let mut uris = alternatives
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { uri.strip_prefix(URI_PREFIX) } else { None });
        match (uris.next(), uris.next()) {
            (Some(id), None) if id == device.as_str() => {}
            (Some(_), None) => return Err(NotADevice::Contradiction { device }),
            _ => return Err(NotADevice::Uri { device }),
        }
        Ok(Self {
            device,
            issuer: certificate.issuer().as_raw().to_vec(),
            serial: without_leading_zeros(certificate.raw_serial()).to_vec(),
        })
    }
}

/// A serial number as it is compared: DER puts a zero before a number with the highest bit set.
pub(crate) fn without_leading_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros.min(serial.len().saturating_sub(1))..]
}

/// Why a certificate that chains to the right CA is no device's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotADevice {
    /// It cannot be parsed.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// The common name is missing, there are several, or it is no device id.
    #[error("the certificate's subject has no single common name that is a device id")]
    CommonName,
    /// The URI is missing, or there are several.
    #[error("the certificate of {device} has no single subject alternative name of the form {URI_PREFIX}<device id>")]
    Uri {
        /// By common name.
        device: Token,
    },
    /// Common name and URI name two devices.
    #[error("the certificate of {device} names another device in its subject alternative name")]
    Contradiction {
        /// By common name.
        device: Token,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    fn leaf(common_names: &[&str], uris: &[&str], serial: &[u8]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_device_is_named_twice_and_alike() {
        let read = |names: &[&str], uris: &[&str]| DeviceCertificate::read(&leaf(names, uris, &[1]));
        let device: Token = "dev-1".parse().unwrap();
        assert_eq!(read(&["dev-1"], &["urn:m2mvpn:device:dev-1"]).unwrap().device, device);
        assert!(read(&["dev-1"], &["https://a.example", "urn:m2mvpn:device:dev-1"]).is_ok());
        assert_eq!(
            read(&["dev-1"], &["urn:m2mvpn:device:dev-2"]),
            Err(NotADevice::Contradiction { device: device.clone() })
        );
        assert_eq!(read(&["dev-1"], &[]), Err(NotADevice::Uri { device: device.clone() }));
        let twice = ["urn:m2mvpn:device:dev-1", "urn:m2mvpn:device:dev-2"];
        assert_eq!(read(&["dev-1"], &twice), Err(NotADevice::Uri { device }));
        assert_eq!(read(&[], &["urn:m2mvpn:device:dev-1"]), Err(NotADevice::CommonName));
        assert_eq!(read(&["a b"], &["urn:m2mvpn:device:a b"]), Err(NotADevice::CommonName));
        assert_eq!(DeviceCertificate::read(&CertificateDer::from(vec![0x30, 0])), Err(NotADevice::Malformed));
    }

    #[test]
    fn serials_lose_the_zero_that_der_needs() {
        let leaf = leaf(&["dev-1"], &["urn:m2mvpn:device:dev-1"], &[0x80, 0x01]);
        assert_eq!(DeviceCertificate::read(&leaf).unwrap().serial, [0x80, 0x01]);
        assert_eq!(without_leading_zeros(&[0, 0]), [0]);
        assert_eq!(without_leading_zeros(&[]), [0_u8; 0]);
    }
}
