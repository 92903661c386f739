//! EK
use super::{Endorsement, TpmError, key_file::Material, thread::Failure};
use tss_esapi::Context;
use zeroize::Zeroizing;

pub(super) fn read(_context: &mut Context) -> Result<Endorsement, Failure> {
    Err(TpmError::Gone.into())
}

pub(super) struct Credential;

impl Credential {
    pub(super) fn parse(_blob: &[u8], _secret: &[u8]) -> Result<Self, TpmError> {
        Err(TpmError::Gone)
    }
}

pub(super) fn activate(
    _context: &mut Context,
    _key: &Material,
    _credential: Credential,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    Err(TpmError::Gone.into())
}
