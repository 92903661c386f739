//! The thread that owns the connection to the TPM.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use tss_esapi::{
    Context,
    constants::{
        CapabilityType,
        tss::{TPM2_ACTIVE_SESSION_FIRST, TPM2_LOADED_SESSION_FIRST, TPM2_PT_FAMILY_INDICATOR, TPM2_TRANSIENT_FIRST},
    },
    handles::{ObjectHandle, TpmHandle},
    tcti_ldr::TctiNameConf,
};

use super::{
    TpmError, ek,
    interface::{Interface, Relay},
    srk::Srk,
};

type Job = Box<dyn FnOnce(&mut Device) + Send>;

/// What the thread owns.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) context: Context,
    /// How the storage root key is reached, once it was looked for.
    pub(super) srk: Option<Srk>,
}

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
        let interface = Interface::parse(tcti)?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, opening) = mpsc::sync_channel(1);
        let failed = |reason: String| TpmError::Open { tcti: tcti.to_owned(), reason };
        std::thread::Builder::new()
            .name("tpm".to_owned())
            .spawn(move || serve(interface, &queue, &opened))
            .map_err(|error| failed(error.to_string()))?;
        match opening.recv_timeout(limit) {
            Ok(Ok(())) => Ok(Self { jobs, limit }),
            Ok(Err(reason)) => Err(failed(reason)),
            Err(RecvTimeoutError::Disconnected) => Err(TpmError::Gone),
            Err(RecvTimeoutError::Timeout) => Err(TpmError::Timeout { operation: "open", limit }),
        }
    }

    /// Runs `job` on the thread and waits for its result, at most for the limit. A job whose caller has given
    /// up before it began is not run.
    pub(super) fn run<T, F>(&self, operation: &'static str, job: F) -> Result<T, TpmError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Device) -> Result<T, Failure> + Send + 'static,
    {
        let abandoned = Arc::new(AtomicBool::new(false));
        let (done, result) = mpsc::sync_channel(1);
        let given_up = Arc::clone(&abandoned);
        self.jobs
            .send(Box::new(move |device| {
                if given_up.load(Ordering::Acquire) {
                    return;
                }
                // The caller may have given up meanwhile; then nobody wants the result.
                let _ = done.send(job(device));
            }))
            .map_err(|_| TpmError::Gone)?;
        match result.recv_timeout(self.limit) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Reason(error))) => Err(error),
            Ok(Err(Failure::Command(error))) => Err(TpmError::Command { operation, reason: error.to_string() }),
            Err(RecvTimeoutError::Disconnected) => Err(TpmError::Gone),
            Err(RecvTimeoutError::Timeout) => {
                abandoned.store(true, Ordering::Release);
                Err(TpmError::Timeout { operation, limit: self.limit })
            }
        }
    }
}

/// Flushes what an operation loaded. A failure is not the operation's: it is logged, and what stays behind is
/// flushed when the TPM is opened again.
pub(super) fn flush(context: &mut Context, handle: ObjectHandle) {
    if let Err(error) = context.flush_context(handle) {
        log::warn!("the TPM did not flush an object: {error}");
    }
}

/// Lets go of a persistent object.
pub(super) fn close(context: &mut Context, handle: &mut ObjectHandle) {
    if let Err(error) = context.tr_close(handle) {
        log::warn!("the TSS did not close an object: {error}");
    }
}

fn serve(interface: Interface, queue: &mpsc::Receiver<Job>, opened: &mpsc::SyncSender<Result<(), String>>) {
    // Declared first, the relay is dropped after the connection through it.
    let (_relay, mut device) = match open(interface) {
        Ok((relay, context)) => (relay, Device { context, srk: None }),
        Err(reason) => {
            let _ = opened.send(Err(reason));
            return;
        }
    };
    if opened.send(Ok(())).is_err() {
        return;
    }
    for job in queue {
        job(&mut device);
    }
}

fn open(interface: Interface) -> Result<(Option<Relay>, Context), String> {
    let (relay, name, exclusive) = match interface {
        Interface::Device(name) => (None, name, false),
        Interface::Ports(name) => (None, name, true),
        Interface::Socket(path) => {
            let relay = Relay::start(&path).map_err(|error| error.to_string())?;
            let name = relay.name().map_err(|error| error.to_string())?;
            (Some(relay), name, true)
        }
    };
    let context = connect(name, exclusive).map_err(|error| error.to_string())?;
    Ok((relay, context))
}

/// Connects to the TPM and has it answer a command: an emulator takes the connection before it is ready.
fn connect(name: TctiNameConf, exclusive: bool) -> Result<Context, tss_esapi::Error> {
    let mut context = Context::new(name)?;
    context.get_capability(CapabilityType::TpmProperties, TPM2_PT_FAMILY_INDICATOR, 1)?;
    if exclusive {
        flush_left_behind(&mut context);
    }
    Ok(context)
}

/// Flushes what a process that was killed left in a TPM without a resource manager. The kernel's resource
/// manager (/dev/tpmrm0) does this by itself, and there the sessions of other processes are visible.
fn flush_left_behind(context: &mut Context) {
    for range in [TPM2_TRANSIENT_FIRST, TPM2_LOADED_SESSION_FIRST, TPM2_ACTIVE_SESSION_FIRST] {
        for handle in ek::handles(context, range).unwrap_or_default() {
            let object = TpmHandle::try_from(handle).and_then(|handle| context.tr_from_tpm_public(handle));
            match object {
                Ok(object) => flush(context, object),
                Err(error) => log::warn!("the TPM holds {handle:#010x}, left behind: {error}"),
            }
        }
    }
}
