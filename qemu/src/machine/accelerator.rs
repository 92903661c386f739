use std::{fmt, fs, str::FromStr, time::Duration};

use crate::{
    LabError, Result,
    holder::{Holder, WORK_DIR},
    process,
};

/// What executes the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accelerator {
    /// QEMU's own emulation: works on every machine.
    #[default]
    Tcg,
    /// The processor's virtualization, through `/dev/kvm`.
    Kvm,
}

/// Which accelerator a user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Emulation.
    #[default]
    Tcg,
    /// KVM, or an error.
    Kvm,
    /// KVM when the probe succeeds, otherwise emulation.
    Auto,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcg" => Ok(Self::Tcg),
            "kvm" => Ok(Self::Kvm),
            "auto" => Ok(Self::Auto),
            _ => Err("expected tcg, kvm or auto".to_owned()),
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        })
    }
}

impl Choice {
    /// Decides, by the probe where KVM is wanted.
    ///
    /// # Errors
    /// When KVM was demanded and the probe fails.
    pub(crate) fn resolve(self, holder: &Holder) -> Result<Accelerator> {
        match self {
            Self::Tcg => Ok(Accelerator::Tcg),
            Self::Kvm => probe_kvm(holder).map(|()| Accelerator::Kvm),
            Self::Auto => Ok(probe_kvm(holder).map_or(Accelerator::Tcg, |()| Accelerator::Kvm)),
        }
    }
}

const PROBE_LIMIT: Duration = Duration::from_secs(5);
const PROBE_VALUE: u8 = 0x2a;
/// QEMU's isa-debug-exit ends it with twice the value plus one.
const PROBE_EXIT: i32 = PROBE_VALUE as i32 * 2 + 1;

/// Boots a sector that writes one byte to a port, on the machine and processor that [`super::Machine`] has. That
/// `/dev/kvm` can be opened proves little: inside of another virtual machine it may be there and hang.
fn probe_kvm(holder: &Holder) -> Result<()> {
    let sector = format!("{WORK_DIR}/kvm-probe.img");
    fs::write(holder.outside(&sector), boot_sector()).map_err(LabError::io("write the KVM probe"))?;
    let mut command = holder.command(None, "qemu-system-x86_64");
    command.args([
        "-machine",
        "q35",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "16",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
    command.args(["-drive", &format!("file={sector},format=raw,if=ide")]);
    let output = process::run_within(&mut command, PROBE_LIMIT)?;
    if output.status == PROBE_EXIT {
        return Ok(());
    }
    Err(LabError::answer("KVM", format!("does not run a guest: {}", output.stderr.trim())))
}

fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    // mov al, VALUE; out 0xf4, al; hlt; jmp to the hlt
    sector[..7].copy_from_slice(&[0xb0, PROBE_VALUE, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
