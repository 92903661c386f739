use std::path::{Path, PathBuf};

use super::{Accelerator, MachineOptions, shell};
use crate::{LabError, Result};

/// The two files of Debian's `ovmf` package for machines without Secure Boot keys, newest first.
const FIRMWARE: [[&str; 2]; 2] = [
    ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"],
    ["/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"],
];

/// UEFI firmware.
pub(super) struct Firmware {
    pub(super) code: &'static str,
    pub(super) variables: &'static str,
}

/// Finds the firmware on this machine.
pub(super) fn firmware() -> Result<Firmware> {
    let found = FIRMWARE.iter().find(|files| files.iter().all(|file| Path::new(file).is_file()));
    let Some([code, variables]) = found else {
        return Err(LabError::Missing { path: FIRMWARE[0][0].into(), hint: "apt-get install ovmf".to_owned() });
    };
    Ok(Firmware { code, variables })
}

/// What QEMU is told to build; every path is one inside of the lab.
pub(super) struct Hardware<'a> {
    pub(super) options: &'a MachineOptions,
    pub(super) disk: &'a Path,
    pub(super) variables: PathBuf,
    pub(super) tap: String,
    pub(super) tpm: PathBuf,
    pub(super) console: PathBuf,
    pub(super) shell: PathBuf,
    pub(super) monitor: PathBuf,
}

impl Hardware<'_> {
    /// QEMU's command line.
    pub(super) fn arguments(&self) -> Vec<String> {
        let code = firmware().map(|firmware| firmware.code).unwrap_or(FIRMWARE[0][0]);
        let mut arguments = Vec::new();
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        add("-machine", "q35".to_owned());
        match self.options.accelerator {
            Accelerator::Tcg => {
                add("-accel", "tcg,thread=multi".to_owned());
                add("-cpu", "max,la57=off".to_owned());
            }
            Accelerator::Kvm => {
                add("-accel", "kvm".to_owned());
                add("-cpu", "host".to_owned());
            }
        }
        add("-smp", "2".to_owned());
        add("-m", self.options.memory_mib.to_string());
        add("-rtc", format!("base={}", self.options.clock.as_deref().unwrap_or("utc")));
        add("-display", "none".to_owned());
        add("-boot", "menu=off".to_owned());

        add("-drive", format!("if=pflash,format=raw,readonly=on,file={code}"));
        add("-drive", format!("if=pflash,format=raw,file={}", self.variables.display()));
        add("-drive", format!("if=none,id=disk,format=qcow2,discard=unmap,file={}", self.disk.display()));
        add("-device", "virtio-blk-pci,drive=disk,bootindex=0".to_owned());

        add("-netdev", format!("tap,id=uplink,ifname={},script=no,downscript=no", self.tap));
        add("-device", format!("virtio-net-pci,netdev=uplink,mac={},romfile=", self.mac()));
        add("-device", "virtio-rng-pci".to_owned());

        add("-chardev", format!("socket,id=tpm,path={}", self.tpm.display()));
        add("-tpmdev", "emulator,id=tpm,chardev=tpm".to_owned());
        add("-device", "tpm-crb,tpmdev=tpm".to_owned());

        add("-chardev", format!("file,id=console,append=on,path={}", self.console.display()));
        add("-serial", "chardev:console".to_owned());
        add("-chardev", format!("socket,id=shell,server=on,wait=off,path={}", self.shell.display()));
        add("-serial", "chardev:shell".to_owned());
        add("-qmp", format!("unix:{},server=on,wait=off", self.monitor.display()));

        add("-uuid", self.uuid());
        add("-smbios", format!("type=1,manufacturer=m2mvpn,product=lab,serial={}", self.options.serial));
        for credential in shell::credentials() {
            add("-smbios", format!("type=11,value={credential}"));
        }
        arguments.extend(["-nodefaults".to_owned(), "-no-user-config".to_owned()]);
        arguments
    }

    fn mac(&self) -> String {
        let [a, b, c, d] = self.fingerprint().to_be_bytes();
        format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    fn uuid(&self) -> String {
        format!("{:08x}-6d32-4d32-8d32-6d326c616200", self.fingerprint())
    }

    /// 32 bits of the machine's name (FNV-1a): no two machines of a lab share them.
    fn fingerprint(&self) -> u32 {
        let bytes = self.options.name.bytes();
        bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }
}
