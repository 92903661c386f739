//! A key on a smartcard, a USB token or an HSM, through the library of its maker (PKCS #11, OASIS).
//!
//! One thread talks to the card, as one does to the TPM: libraries and readers are slow, and some hang.

mod token;
mod uri;

use std::{
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey},
};
use cryptoki::types::AuthPin;
use rustls_pki_types::CertificateDer;

pub use uri::{CardUri, UriError};

use crate::{DeviceKey, KeyError, chain};
use token::Token;

/// How long the card may take for one operation.
const LIMIT: Duration = Duration::from_secs(20);

/// What a card holds for a device.
#[derive(Debug)]
pub struct Card {
    /// The key, which signs on the card.
    pub key: CardKey,
    /// Its certificate and those of the issuers that are on the card, but the root.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Card {
    /// Finds the key that `uri` names, unlocks the card with `pin`, once, and has it sign something: what is returned works.
    ///
    /// A PIN is spent on the card only while no attempt has failed since the last good one: a wrong PIN in a configuration cannot lock the
    /// card, however often the machine starts.
    ///
    /// # Errors
    /// [`CardError`].
    pub fn open(module: &Path, uri: &CardUri, pin: &str) -> Result<Self, CardError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, opening) = mpsc::sync_channel(1);
        let (module, uri, pin) = (module.to_owned(), uri.clone(), AuthPin::from(pin));
        std::thread::Builder::new()
            .name("card".to_owned())
            .spawn(move || serve(Token::open(&module, &uri, &pin), &queue, &opened))
            .map_err(|error| CardError::Refused(error.to_string()))?;
        let certificates = answer(&opening)??;
        // The card's first certificate is the key's.
        let leaf = certificates.first().ok_or(CardError::NoCertificate)?;
        let spki = chain::public_key(leaf).map_err(|error| CardError::Certificate(error.to_string()))?;
        let chain = chain::order(&spki, &certificates).ok_or(CardError::NoCertificate)?;
        let key = CardKey { jobs, spki };
        key.prove()?;
        Ok(Self { key, chain })
    }
}

/// A P-256 key that never leaves its card.
#[derive(Debug, Clone)]
pub struct CardKey {
    jobs: mpsc::Sender<Job>,
    spki: Vec<u8>,
}

impl CardKey {
    /// Has the card sign something, and checks it.
    fn prove(&self) -> Result<(), CardError> {
        const MESSAGE: &[u8] = b"m2mvpn: is this the key of the certificate?";
        let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.spki).map_err(|_| CardError::NotP256)?;
        let signature = self.sign_on_card(MESSAGE)?;
        public.verify_sig(MESSAGE, &signature).map_err(|_| CardError::NoCertificate)
    }

    fn sign_on_card(&self, message: &[u8]) -> Result<Vec<u8>, CardError> {
        let (done, result) = mpsc::sync_channel(1);
        let job = Job { digest: digest(&SHA256, message).as_ref().to_vec(), done };
        self.jobs.send(job).map_err(|_| CardError::Gone)?;
        answer(&result)?
    }
}

impl DeviceKey for CardKey {
    fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.sign_on_card(message)?)
    }
}

#[derive(Debug)]
struct Job {
    digest: Vec<u8>,
    done: mpsc::SyncSender<Result<Vec<u8>, CardError>>,
}

fn answer<T>(from: &mpsc::Receiver<T>) -> Result<T, CardError> {
    from.recv_timeout(LIMIT).map_err(|error| match error {
        RecvTimeoutError::Timeout => CardError::Timeout(LIMIT),
        RecvTimeoutError::Disconnected => CardError::Gone,
    })
}

type Opened = Result<Vec<CertificateDer<'static>>, CardError>;

fn serve(token: Result<Token, CardError>, queue: &mpsc::Receiver<Job>, opened: &mpsc::SyncSender<Opened>) {
    let token = match token {
        Ok(token) => token,
        Err(error) => return drop(opened.send(Err(error))),
    };
    if opened.send(token.certificates()).is_err() {
        return;
    }
    for Job { digest, done } in queue {
        // Whoever asked may have given up.
        let _ = done.send(token.sign(&digest));
    }
}

/// Why a card cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// The library is not there, or is none.
    #[error("the PKCS #11 module cannot be loaded: {0}")]
    Module(String),
    /// No card fits the URI.
    #[error("no card for {0} is in a reader")]
    NoCard(String),
    /// Several cards do.
    #[error("{1} cards fit {0}; name one by its serial")]
    SeveralCards(String, usize),
    /// The PIN is wrong.
    #[error(
        "the card's PIN is wrong; it is not tried again until it was entered correctly elsewhere (pkcs11-tool --login --test)"
    )]
    WrongPin,
    /// A PIN was wrong before.
    #[error(
        "a wrong PIN was entered before; so that the card is not locked, enter the right one elsewhere first (pkcs11-tool --login --test)"
    )]
    PinDoubted,
    /// Too many wrong PINs.
    #[error("the card is locked after too many wrong PINs; unlock it with its security officer's PIN (PUK)")]
    Locked,
    /// No key fits the URI.
    #[error("the card has no private key for {0}")]
    NoKey(String),
    /// Several keys do.
    #[error("{1} private keys on the card fit {0}; name one by its id")]
    SeveralKeys(String, usize),
    /// The key has no certificate on the card, or one of another key.
    #[error("the card has no certificate for the key")]
    NoCertificate,
    /// A certificate cannot be read.
    #[error("a certificate on the card is malformed: {0}")]
    Certificate(String),
    /// The key is of another kind.
    #[error("the key on the card is not an ECDSA P-256 key")]
    NotP256,
    /// The card was taken out.
    #[error("the card was removed")]
    Removed,
    /// The card does not answer.
    #[error("the card did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The thread has ended.
    #[error("the card is not in use any more")]
    Gone,
    /// The library refused.
    #[error("the PKCS #11 module refused: {0}")]
    Refused(String),
}
