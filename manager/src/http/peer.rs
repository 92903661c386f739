//! Who is at the other end of a connection.

use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::ca::hex;
use crate::enrol;
use crate::fleet::Fleet;
use crate::problem::Refusal;
use crate::store::{CertificateRecord, Device, DeviceState};

/// The other end of a connection, as an extension of each request on it.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// The certificate that it proved, if it presented one: issued by this CA and valid when the connection began.
    pub(crate) certificate: Option<CertificateDer<'static>>,
}

/// A device that has proved its certificate.
#[derive(Debug)]
pub(crate) struct KnownDevice {
    pub(crate) device: Device,
    pub(crate) certificate: CertificateRecord,
}

impl Peer {
    /// The device at the other end. Revocation counts at once, as the database knows it.
    ///
    /// # Errors
    /// 403, without a certificate and with one that is no longer good.
    pub(crate) async fn device(&self, fleet: &Fleet, now: OffsetDateTime) -> Result<KnownDevice, Refusal> {
        let Some(certificate) = &self.certificate else {
            return Err(Refusal::forbidden(
                "Certificate needed",
                "present the device's certificate in the TLS handshake, or enrol first",
            ));
        };
        let serial = serial(certificate)?;
        let mut connection = fleet.store().read().await?;
        let Some(record) = CertificateRecord::by_serial(&mut connection, &serial).await? else {
            return Err(not_good(&serial, "this manager does not know it: enrol again"));
        };
        let Some(id) = &record.device else { return Err(not_good(&serial, "it is not a device's")) };
        let Some(device) = Device::by_id(&mut connection, id).await? else {
            return Err(not_good(&serial, "its device is not known: enrol again"));
        };
        if device.state == DeviceState::Revoked {
            return Err(enrol::revoked(&device));
        }
        if record.revoked.is_some() {
            return Err(not_good(&serial, "it is revoked: enrol again"));
        }
        if record.not_after <= now {
            return Err(not_good(&serial, "it has expired: enrol again"));
        }
        if device.state == DeviceState::Pending {
            return Err(not_good(&serial, "its device waits for approval"));
        }
        Ok(KnownDevice { device, certificate: record })
    }
}

/// The serial number of `certificate`, in lower-case hexadecimal.
fn serial(certificate: &CertificateDer<'_>) -> Result<String, Refusal> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(anyhow::Error::from)?;
    Ok(hex(parsed.raw_serial()))
}

fn not_good(serial: &str, why: &str) -> Refusal {
    Refusal::forbidden("Certificate not accepted", format!("certificate {serial}: {why}"))
}
