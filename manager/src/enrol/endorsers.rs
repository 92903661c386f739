//! What an endorsement key certificate is worth, going by the CAs in the database.

use m2m_identity::endorsement::{EkTrust, EndorsementError};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::introduction::Introduction;
use super::policy::Endorsement;
use crate::store::EkCa;

/// Looks for the CA in `cas` that vouches for the endorsement key of `device`. Each CA also serves as an intermediate
/// one for the others, so that a maker's root and its issuing CA can both be added.
pub(super) fn judge(cas: &[EkCa], device: &Introduction, now: UnixTime) -> Endorsement {
    let Some(certificate) = &device.ek_certificate else { return Endorsement::Missing };
    let intermediates: Vec<_> = cas.iter().map(|ca| CertificateDer::from(ca.certificate.as_slice())).collect();
    let mut vouching: Vec<&EkCa> = Vec::new();
    let mut complaint = None;
    for (ca, ca_certificate) in cas.iter().zip(&intermediates) {
        let mut trust = EkTrust::new();
        let verified =
            trust.add(ca_certificate).and_then(|()| trust.verify(certificate, &intermediates, &device.ek_public, now));
        match verified {
            Ok(_) => vouching.push(ca),
            Err(EndorsementError::UnknownAuthority { .. }) => {}
            Err(error) => complaint = Some(error.to_string()),
        }
    }
    if let Some(first) = vouching.first() {
        let serials = vouching.iter().flat_map(|ca| ca.serials.clone()).collect();
        return Endorsement::By { ca: first.subject.clone(), serials };
    }
    Endorsement::NotAccepted(complaint.unwrap_or_else(|| unknown_issuer(certificate)))
}

fn unknown_issuer(certificate: &[u8]) -> String {
    let issuer = x509_parser::parse_x509_certificate(certificate)
        .map(|(_, certificate)| certificate.issuer().to_string())
        .unwrap_or_default();
    format!("the issuer of its certificate is not an accepted EK CA: {issuer}")
}
