//! The thread that owns the connection to the TPM.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use tss_esapi::{Context, tcti_ldr::TctiNameConf};

use super::TpmError;

type Job = Box<dyn FnOnce(&mut Context) + Send>;

/// Sends jobs to the thread; the thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    jobs: mpsc::Sender<Job>,
    limit: Duration,
}

/// What a job failed with, before it is known what it was for.
#[derive(Debug)]
pub(super) enum Failure {
    /// The TPM or the TSS refused a command.
    Command(tss_esapi::Error),
    /// The operation itself found the reason.
    Reason(TpmError),
}

impl From<tss_esapi::Error> for Failure {
    fn from(error: tss_esapi::Error) -> Self {
        Self::Command(error)
    }
}

impl From<TpmError> for Failure {
    fn from(error: TpmError) -> Self {
        Self::Reason(error)
    }
}

impl Handle {
    /// Starts the thread, and returns once it holds the TPM.
    pub(super) fn start(tcti: &str, limit: Duration) -> Result<Self, TpmError> {
        let name = parse(tcti)?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, opening) = mpsc::sync_channel(1);
        let failed = |reason: String| TpmError::Open {
            tcti: tcti.to_owned(),
            reason,
        };
        std::thread::Builder::new()
            .name("tpm".to_owned())
            .spawn(move || serve(name, &queue, &opened))
            .map_err(|error| failed(error.to_string()))?;
        match opening.recv_timeout(limit) {
            Ok(Ok(())) => Ok(Self { jobs, limit }),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(RecvTimeoutError::Disconnected) => Err(TpmError::Gone),
            Err(RecvTimeoutError::Timeout) => Err(TpmError::Timeout {
                operation: "open",
                limit,
            }),
        }
    }

    /// Runs `job` on the thread and waits for its result, at most for the limit. A job whose caller has given
    /// up before it began is not run.
    pub(super) fn run<T, F>(&self, operation: &'static str, job: F) -> Result<T, TpmError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Context) -> Result<T, Failure> + Send + 'static,
    {
        let abandoned = Arc::new(AtomicBool::new(false));
        let (done, result) = mpsc::sync_channel(1);
        let given_up = Arc::clone(&abandoned);
        self.jobs
            .send(Box::new(move |context| {
                if given_up.load(Ordering::Acquire) {
                    return;
                }
                // The caller may have given up meanwhile; then nobody wants the result.
                let _ = done.send(job(context));
            }))
            .map_err(|_| TpmError::Gone)?;
        match result.recv_timeout(self.limit) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Reason(error))) => Err(error),
            Ok(Err(Failure::Command(error))) => Err(TpmError::Command {
                operation,
                reason: error.to_string(),
            }),
            Err(RecvTimeoutError::Disconnected) => Err(TpmError::Gone),
            Err(RecvTimeoutError::Timeout) => {
                abandoned.store(true, Ordering::Release);
                Err(TpmError::Timeout {
                    operation,
                    limit: self.limit,
                })
            }
        }
    }
}

fn serve(
    name: TctiNameConf,
    queue: &mpsc::Receiver<Job>,
    opened: &mpsc::SyncSender<Result<(), tss_esapi::Error>>,
) {
    let mut context = match Context::new(name) {
        Ok(context) => context,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    if opened.send(Ok(())).is_err() {
        return;
    }
    for job in queue {
        job(&mut context);
    }
}

/// tss-esapi takes unknown fields for defaults, so that the fields are checked here.
fn parse(tcti: &str) -> Result<TctiNameConf, TpmError> {
    let malformed = || TpmError::Tcti(tcti.to_owned());
    let known = match tcti.split_once(':') {
        Some(("device", path)) => path.starts_with('/'),
        Some(("swtpm" | "mssim", fields)) => fields.split(',').all(|field| {
            matches!(field.split_once('='), Some(("host" | "port", value)) if !value.is_empty())
        }),
        _ => false,
    };
    if !known {
        return Err(malformed());
    }
    TctiNameConf::from_str(tcti).map_err(|_| malformed())
}
