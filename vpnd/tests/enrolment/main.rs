//! The device's side of the enrolment against managers of all kinds, over TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authority;
mod emulator;
mod manager;
mod tpm;

use std::sync::Arc;

use m2m_identity::{DeviceKey, PemKey};
use m2m_protocol::Version1;
use m2m_protocol::enrolment::{Base64, Challenge, EnrolRequest};
use serde_json::{Value, json};
use time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use vpnd::clock::Clock;
use vpnd::enrol::{Answer, Applicant, ApplicantError, EnrolError, HttpsError, Manager, exchange};
use vpnd::state::EnrolFailure;

use authority::{Authority, Flaw};
use manager::{Answers, Asked, Cut};

const NAME: &str = "manager.example";
const ID: &str = "dev-0123456789abcdef";
const SECRET: &[u8] = b"the secret of the challenge";

/// A device without a TPM: it solves the challenge by reading it.
struct PlainApplicant(Arc<PemKey>);

impl PlainApplicant {
    fn new() -> Self {
        Self(Arc::new(PemKey::generate().unwrap()))
    }
}

impl Applicant for PlainApplicant {
    fn introduce(&self) -> Result<EnrolRequest, ApplicantError> {
        Ok(EnrolRequest {
            version: Version1,
            serial: "SN-1".parse().unwrap(),
            hostname: "m2m-sn-1".to_owned(),
            label: Some("batch-1".parse().unwrap()),
            ek_public: Base64(b"ek".to_vec()),
            ek_certificate: None,
            key_public: Base64(b"key".to_vec()),
            csr: Base64(m2m_identity::certificate_request(self.0.as_ref(), "SN-1")?),
        })
    }

    fn solve(&self, challenge: &Challenge) -> Result<Base64, ApplicantError> {
        match challenge.credential_blob.0.as_slice() {
            SECRET => Ok(Base64(SECRET.to_vec())),
            _ => Err(ApplicantError::Credential("for another TPM".to_owned())),
        }
    }

    fn key(&self) -> Arc<dyn DeviceKey> {
        Arc::clone(&self.0) as _
    }
}

/// An authority, its manager, and a device that trusts it.
struct Bench {
    authority: Authority,
    applicant: Arc<PlainApplicant>,
    clock: Clock,
}

impl Bench {
    fn new() -> Self {
        Self { authority: Authority::new(), applicant: Arc::new(PlainApplicant::new()), clock: clock() }
    }

    fn enrolled(&self, flaw: Flaw) -> Value {
        enrolled(self.authority.device(ID, self.applicant.0.spki_der(), flaw))
    }

    async fn ask(&self, answers: Answers) -> Result<Answer, EnrolError> {
        let identity = self.authority.server(NAME, Duration::ZERO);
        let (stream, _task) = manager::start(&identity, answers);
        self.ask_over(stream).await
    }

    async fn ask_over<S>(&self, stream: S) -> Result<Answer, EnrolError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let manager = Manager { origin: format!("https://{NAME}").parse().unwrap(), anchors: self.authority.anchors() };
        exchange(stream, &manager, Arc::clone(&self.applicant), &self.clock).await
    }

    /// Asks a manager that answers the activation with `answer`.
    async fn ask_for(&self, answer: Vec<u8>) -> Result<Answer, EnrolError> {
        self.ask(challenge_and(answer)).await
    }
}

fn clock() -> Clock {
    Clock::open("/nonexistent/clock".into(), None)
}

fn challenge() -> Vec<u8> {
    use base64::Engine;
    let secret = base64::engine::general_purpose::STANDARD.encode(SECRET);
    manager::json(200, &json!({ "session": "s-1", "credential_blob": secret, "encrypted_secret": "" }))
}

fn enrolled(chain: String) -> Value {
    json!({
        "version": 1,
        "certificate_chain": chain,
        "configuration": {
            "version": 1,
            "device_id": ID,
            "tunnel": { "gateway": [{ "origin": "https://gateway.example" }] },
        },
    })
}

fn challenge_and(answer: Vec<u8>) -> Answers {
    Box::new(move |asked| match asked {
        Asked::Enrol(_) => challenge(),
        Asked::Activate { session, secret } => {
            assert_eq!((session.as_str(), secret.as_slice()), ("s-1", SECRET));
            answer.clone()
        }
    })
}

fn passing(result: Result<Answer, EnrolError>) -> String {
    match result.unwrap_err().failure() {
        EnrolFailure::Passing(cause) => cause,
        other => panic!("{other:?} will not pass by itself"),
    }
}

#[tokio::test]
async fn a_device_that_is_known_is_let_in() {
    let bench = Bench::new();
    let Answer::Enrolled(membership) = bench.ask_for(manager::json(200, &bench.enrolled(Flaw::None))).await.unwrap()
    else {
        panic!("not let in")
    };
    assert_eq!(membership.configuration.device_id.as_str(), ID);
    assert_eq!(membership.identity.key().spki_der(), bench.applicant.0.spki_der());
    assert_eq!(membership.identity.chain().len(), 2);
}

#[tokio::test]
async fn a_device_that_is_not_known_waits_and_is_let_in_later() {
    let bench = Bench::new();
    let wait = json!({ "retry_after_s": 7, "reason": "unknown endorsement key\u{1b}[2J\nask your administrator" });
    let Answer::Pending { reason, retry_after } = bench.ask_for(manager::json(202, &wait)).await.unwrap() else {
        panic!("let in")
    };
    assert_eq!(reason, "unknown endorsement key [2J ask your administrator");
    assert_eq!(retry_after.as_secs(), 7);
    let answer = bench.ask_for(manager::json(200, &bench.enrolled(Flaw::None))).await.unwrap();
    assert!(matches!(answer, Answer::Enrolled(_)));
}

#[tokio::test]
async fn a_manager_that_the_image_does_not_trust_learns_nothing() {
    let bench = Bench::new();
    for (identity, says) in [
        (Authority::new().server(NAME, Duration::ZERO), "not trusted"),
        (bench.authority.server("other.example", Duration::ZERO), "not trusted"),
        (bench.authority.server(NAME, Duration::days(60)), "clock may be wrong"),
        (bench.authority.server(NAME, Duration::days(-60)), "clock may be wrong"),
    ] {
        let (stream, task) = manager::start(&identity, Box::new(|asked| panic!("was asked {asked:?}")));
        let error = bench.ask_over(stream).await.unwrap_err();
        assert!(matches!(error.failure(), EnrolFailure::Untrusted(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(task.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn an_answer_cut_off_anywhere_is_no_answer() {
    let bench = Bench::new();
    let whole = manager::json(200, &bench.enrolled(Flaw::None));
    let head = whole.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    // Every byte of the head and of the body's ends; between them, what is cut is always the inside of a string.
    let cuts = (0..head + 40).chain((head + 40..whole.len() - 200).step_by(97)).chain(whole.len() - 200..whole.len());
    for length in cuts {
        passing(bench.ask_for(whole[..length].to_vec()).await);
    }
    let first = challenge();
    for length in (0..first.len()).step_by(3) {
        let answer = first[..length].to_vec();
        passing(bench.ask(Box::new(move |_| answer.clone())).await);
    }
}

#[tokio::test]
async fn a_connection_cut_off_anywhere_is_no_answer() {
    let bench = Bench::new();
    let answer = manager::json(200, &bench.enrolled(Flaw::None));
    let mut left = 0;
    loop {
        let identity = bench.authority.server(NAME, Duration::ZERO);
        let (stream, _task) = manager::start(&identity, challenge_and(answer.clone()));
        match bench.ask_over(Cut { stream, left }).await {
            Ok(answer) => {
                assert!(matches!(answer, Answer::Enrolled(_)));
                break;
            }
            Err(error) => assert!(matches!(error.failure(), EnrolFailure::Passing(_)), "{left}: {error}"),
        }
        left += 61;
        assert!(left < 100_000, "never let in");
    }
    assert!(left > 2000, "let in after {left} bytes");
}

#[tokio::test]
async fn a_malformed_answer_is_named() {
    let bench = Bench::new();
    let good = bench.enrolled(Flaw::None);
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        manager::json(200, &body)
    };
    for (answer, says) in [
        (manager::http(200, b""), "EOF"),
        (manager::http(200, b"null"), "expected struct Enrolled"),
        (manager::http(200, b"<html>502</html>"), "expected value"),
        (manager::http(200, &[0xff; 100]), "expected value"),
        (manager::http(200, "[".repeat(10_000).as_bytes()), "malformed"),
        (manager::http(200, &vec![b' '; 70_000]), "larger than"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "not HTTP"),
        (manager::http(302, b""), "unexpected answer"),
        (manager::json(202, &json!({ "retry_after_s": -1, "reason": "" })), "retry_after_s: "),
        (with("/version", json!(2)), "expected version 1"),
        (with("/certificate_chain", json!("")), "no certificate found"),
        (
            with("/certificate_chain", json!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----")),
            "malformed",
        ),
        (with("/configuration/tunnel/gateway", json!([])), "configuration.tunnel"),
        (with("/configuration/device_id", json!("../../etc")), "expected 1 to 64"),
    ] {
        let cause = passing(bench.ask_for(answer).await);
        assert!(cause.contains(says), "{cause:?} does not say {says:?}");
    }
    let cause = passing(bench.ask(Box::new(|_| manager::json(200, &json!({ "session": "../x" })))).await);
    assert!(cause.contains("the challenge"), "{cause}");
}

#[tokio::test]
async fn a_certificate_that_is_not_this_devices_is_not_taken() {
    let bench = Bench::new();
    let (own, other) = (bench.applicant.0.spki_der(), PlainApplicant::new());
    let authority = &bench.authority;
    for (chain, says) in [
        (authority.device(ID, other.0.spki_der(), Flaw::None), "do not belong together"),
        (Authority::new().device(ID, own, Flaw::None), "trust anchor"),
        (authority.device(ID, own, Flaw::Expired), "trust anchor"),
        (authority.device(ID, own, Flaw::ForServers), "trust anchor"),
        (authority.device(ID, own, Flaw::OtherName), "not in the name of dev-0123456789abcdef"),
        (authority.device(ID, own, Flaw::NoUri), "urn:m2mvpn:device:dev-0123456789abcdef is missing"),
    ] {
        let cause = passing(bench.ask_for(manager::json(200, &enrolled(chain))).await);
        assert!(cause.contains(says), "{cause:?} does not say {says:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_apart_from_a_manager_that_is_busy() {
    let bench = Bench::new();
    let problem = json!({ "status": 403, "title": "refused", "detail": "csr: for another key" });
    let error = bench.ask_for(manager::json(403, &problem)).await.unwrap_err();
    assert!(matches!(error.failure(), EnrolFailure::Refused(_)));
    assert_eq!(error.to_string(), "the manager refused: refused: csr: for another key (HTTP 403)");
    for status in [404, 429, 500, 503] {
        passing(bench.ask_for(manager::json(status, &problem)).await);
    }
    let error = bench.ask(Box::new(|_| manager::http(400, b"no problem document"))).await.unwrap_err();
    assert!(matches!(error.failure(), EnrolFailure::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_challenge_for_another_tpm_is_not_answered() {
    let bench = Bench::new();
    let foreign = manager::json(200, &json!({ "session": "s", "credential_blob": "AAAA", "encrypted_secret": "" }));
    let result = bench
        .ask(Box::new(move |asked| match asked {
            Asked::Enrol(_) => foreign.clone(),
            Asked::Activate { .. } => panic!("answered"),
        }))
        .await;
    assert!(passing(result).contains("for another TPM"));
}

#[tokio::test]
async fn a_manager_that_closes_at_once_is_asked_again() {
    let bench = Bench::new();
    let (stream, far) = tokio::io::duplex(1024);
    drop(far);
    let error = bench.ask_over(stream).await.unwrap_err();
    assert!(matches!(error, EnrolError::Https(HttpsError::Tls(_))), "{error}");
    passing(Err(error));
}
