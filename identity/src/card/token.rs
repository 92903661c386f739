//! An open session with a card.

use std::path::Path;

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, CertificateType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
    types::AuthPin,
};
use rustls_pki_types::CertificateDer;

use super::{CardError, CardUri};
use crate::signature::ecdsa_der;

pub(super) struct Token {
    session: Session,
    key: ObjectHandle,
}

impl Token {
    pub(super) fn open(module: &Path, uri: &CardUri, pin: &AuthPin) -> Result<Self, CardError> {
        let library =
            Pkcs11::new(module).map_err(|error| CardError::Module(format!("{}: {error}", module.display())))?;
        match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(refused(error)),
        }
        let (slot, info) = find(&library, uri)?;
        let session = library.open_ro_session(slot).map_err(refused)?;
        if info.login_required() {
            log_in(&session, &info, pin)?;
        }
        let key = find_key(&session, uri)?;
        Ok(Self { session, key })
    }

    /// The key's own, if it is known by the key's id, then the others.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, CardError> {
        let id = self.attribute(self.key, AttributeType::Id)?;
        let template = [Attribute::Class(ObjectClass::CERTIFICATE), Attribute::CertificateType(CertificateType::X_509)];
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for object in self.session.find_objects(&template).map_err(refused)? {
            let Some(Attribute::Value(der)) = self.attribute(object, AttributeType::Value)? else { continue };
            let is_own = id.is_some() && self.attribute(object, AttributeType::Id)? == id;
            if is_own { &mut own } else { &mut others }.push(CertificateDer::from(der));
        }
        if own.is_empty() {
            return Err(CardError::NoCertificate);
        }
        own.append(&mut others);
        Ok(own)
    }

    pub(super) fn sign(&self, digest: &[u8]) -> Result<Vec<u8>, CardError> {
        let raw = self.session.sign(&Mechanism::Ecdsa, self.key, digest).map_err(refused)?;
        let (r, s) = raw.split_at(raw.len() / 2);
        ecdsa_der(r, s).map_err(|error| CardError::Refused(error.to_string()))
    }

    fn attribute(&self, object: ObjectHandle, kind: AttributeType) -> Result<Option<Attribute>, CardError> {
        Ok(self.session.get_attributes(object, &[kind]).map_err(refused)?.pop())
    }
}

fn find(library: &Pkcs11, uri: &CardUri) -> Result<(Slot, TokenInfo), CardError> {
    let mut found = Vec::new();
    for slot in library.get_slots_with_token().map_err(refused)? {
        // A card may be taken out meanwhile.
        let Ok(info) = library.get_token_info(slot) else { continue };
        let fits =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value.trim_end());
        if info.token_initialized()
            && fits(&uri.token, info.label())
            && fits(&uri.manufacturer, info.manufacturer_id())
            && fits(&uri.serial, info.serial_number())
            && fits(&uri.model, info.model())
        {
            found.push((slot, info));
        }
    }
    match found.len() {
        0 => Err(CardError::NoCard(uri.to_string())),
        1 => Ok(found.remove(0)),
        several => Err(CardError::SeveralCards(uri.to_string(), several)),
    }
}

fn log_in(session: &Session, info: &TokenInfo, pin: &AuthPin) -> Result<(), CardError> {
    if info.user_pin_locked() {
        return Err(CardError::Locked);
    }
    if info.user_pin_count_low() || info.user_pin_final_try() {
        return Err(CardError::PinDoubted);
    }
    match session.login(UserType::User, Some(pin)) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid, _)) => {
            Err(CardError::WrongPin)
        }
        Err(Error::Pkcs11(RvError::PinLocked, _)) => Err(CardError::Locked),
        Err(error) => Err(refused(error)),
    }
}

fn find_key(session: &Session, uri: &CardUri) -> Result<ObjectHandle, CardError> {
    let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
    template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.as_bytes().to_vec())));
    template.extend(uri.id.clone().map(Attribute::Id));
    match session.find_objects(&template).map_err(refused)?.as_slice() {
        [] => Err(CardError::NoKey(uri.to_string())),
        [key] => Ok(*key),
        several => Err(CardError::SeveralKeys(uri.to_string(), several.len())),
    }
}

fn refused(error: Error) -> CardError {
    match error {
        Error::Pkcs11(
            RvError::DeviceRemoved | RvError::TokenNotPresent | RvError::SessionHandleInvalid | RvError::DeviceError,
            _,
        ) => CardError::Removed,
        Error::Pkcs11(code, function) => CardError::Refused(format!("{function}: {code:?}")),
        error => CardError::Refused(error.to_string()),
    }
}
