use std::{io, path::PathBuf, time::Duration};

/// What can go wrong in the lab itself, as opposed to in the programs that run in it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A system call or a file operation failed.
    #[error("{action}: {source}")]
    Io {
        /// What the lab was doing, with the path or interface concerned.
        action: String,
        /// The operating system's answer.
        source: io::Error,
    },

    /// A tool that the lab needs cannot be started.
    #[error("cannot start {tool} ({source}); `qemu/run` installs what the lab needs, see qemu/packages")]
    Tool {
        /// Name of the program.
        tool: String,
        /// Why it did not start.
        source: io::Error,
    },

    /// A command ran and failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it printed as error.
        stderr: String,
    },

    /// Something did not happen in time.
    #[error("{what}: not within {} s", .limit.as_secs_f32())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long the lab waited.
        limit: Duration,
    },

    /// A process ended that should be running.
    #[error("{name} ended ({status}); the end of its log:\n{log}")]
    Ended {
        /// Name of the process in this lab.
        name: String,
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        log: String,
    },

    /// A file that the lab needs does not exist.
    #[error("{path} does not exist: {hint}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// How to get it.
        hint: String,
    },

    /// A program answered something that the lab cannot read.
    #[error("{from}: {problem}")]
    Answer {
        /// Who answered.
        from: String,
        /// What is wrong with the answer.
        problem: String,
    },
}

impl LabError {
    /// For `map_err`: adds what the lab was doing to an I/O error.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
        let action = action.into();
        move |source| LabError::Io { action, source }
    }

    /// An answer that cannot be read.
    pub(crate) fn answer(from: impl Into<String>, problem: impl Into<String>) -> LabError {
        LabError::Answer { from: from.into(), problem: problem.into() }
    }
}

/// Result of the lab's operations.
pub type Result<T, E = LabError> = std::result::Result<T, E>;
