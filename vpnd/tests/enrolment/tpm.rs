//! The enrolment with a key and an endorsement key in a TPM, and a manager that challenges them.

use std::sync::{Arc, Mutex};

use m2m_identity::credential;
use m2m_protocol::enrolment::EnrolRequest;
use serde_json::json;
use time::Duration;
use vpnd::enrol::{Answer, Manager, TpmApplicant, exchange};

use super::authority::{Authority, Flaw};
use super::emulator::Emulator;
use super::manager::{self, Asked};
use super::{ID, NAME, clock, enrolled};

/// What the device asked for, and the secret that it has to find.
type Seen = Arc<Mutex<Option<(EnrolRequest, Vec<u8>)>>>;

#[tokio::test]
async fn a_device_proves_its_tpm_and_its_key() {
    use base64::Engine;
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);

    let emulator = Emulator::start();
    let tpm = emulator.open();
    let key = Arc::new(tpm.create_signing_key().unwrap());
    let authority = Arc::new(Authority::new());
    let asked_for = Seen::default();

    let (issuer, seen) = (Arc::clone(&authority), Arc::clone(&asked_for));
    let answers = Box::new(move |asked| match asked {
        Asked::Enrol(request) => {
            let challenge = credential::make(&request.ek_public.0, &request.key_public.0).unwrap();
            let body = json!({
                "session": "s-1",
                "credential_blob": base64(&challenge.credential_blob),
                "encrypted_secret": base64(&challenge.encrypted_secret),
            });
            *seen.lock().unwrap() = Some((*request, challenge.secret.to_vec()));
            manager::json(200, &body)
        }
        Asked::Activate { secret, .. } => {
            let (request, expected) = seen.lock().unwrap().clone().unwrap();
            assert_eq!(secret, expected);
            let spki = credential::key_spki(&request.key_public.0).unwrap();
            manager::json(200, &enrolled(issuer.device(ID, &spki, Flaw::None)))
        }
    });
    let (stream, task) = manager::start(&authority.server(NAME, Duration::ZERO), answers);
    let manager = Manager { origin: format!("https://{NAME}").parse().unwrap(), anchors: authority.anchors() };
    let machine = serde_json::from_value(json!({ "serial": "SN-7", "hostname": "atm-sn-7" })).unwrap();
    let first_boot = format!(
        "version = 1\n[manager]\nurl = \"https://{NAME}\"\ntrust_anchor = '''\n{}'''\n[device]\nlabel = \"batch-1\"\n\
         [[uplink]]\nmatch = \"en*\"\nmethod = \"dhcp\"\n",
        // Any certificate will do: the exchange trusts what `manager` says.
        authority.device(ID, m2m_identity::DeviceKey::spki_der(key.as_ref()), Flaw::None)
    );
    let first_boot = m2m_protocol::config_file::parse("first-boot.toml".as_ref(), &first_boot).unwrap();
    let applicant = Arc::new(TpmApplicant::new(tpm, key, machine, first_boot));

    let answer = exchange(stream, &manager, applicant, &clock()).await.unwrap();
    task.await.unwrap().unwrap();
    assert!(matches!(answer, Answer::Enrolled(_)));
    let (request, _) = asked_for.lock().unwrap().clone().unwrap();
    assert_eq!((request.serial.as_str(), request.hostname.as_str()), ("SN-7", "atm-sn-7"));
    assert_eq!(request.label.unwrap().as_str(), "batch-1");
}
