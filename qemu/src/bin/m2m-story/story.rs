use std::{path::Path, time::Duration};

use anyhow::Context;
use m2m_lab::{
    FlashedImage, Gateway, Lab, LabOptions, Machine, MachineOptions, Manager, ManagerOptions, machine::Choice,
};

use crate::{
    figures::Figures,
    image_file::ImageSize,
    progress::{Progress, Step},
};

/// A machine that is emulated on a busy host may take this long from power-on to any milestone.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// The machine's serial number: the manager accepts it, and no other.
pub(crate) const SERIAL: &str = "LAB-ATM";

/// Everything that takes part.
#[derive(Debug)]
pub(crate) struct Story {
    // Fields are dropped in this order: what runs in the lab before the lab.
    pub(crate) thief: Option<Machine>,
    pub(crate) machine: Machine,
    pub(crate) gateway: Gateway,
    pub(crate) manager: Manager,
    pub(crate) lab: Lab,
    pub(crate) state: State,
    figures: Figures,
    progress: Progress,
}

/// What one chapter tells the next.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) device_id: String,
    pub(crate) certificate: String,
    pub(crate) addresses: Vec<std::net::IpAddr>,
    pub(crate) kernel_start: f64,
}

impl Story {
    /// Starts lab and servers and flashes the image; the machine is off.
    pub(crate) fn begin(mut progress: Progress, image: &Path, accelerator: Choice) -> anyhow::Result<Self> {
        let size = ImageSize::read(image)?;

        let step = progress.step("starting the lab: router, DHCP, DNS, NTP, company, capture");
        let token = format!("{:x}", std::process::id());
        let lab =
            finish(step, Lab::start(LabOptions { token, ..LabOptions::default() }).context("cannot start the lab"))?;

        let step = progress.step("choosing the accelerator");
        let accelerator = finish(step, lab.accelerator(accelerator).map_err(Into::into))?;

        let step = progress.step("starting the manager: its CA is made, the TPM maker's CA is accepted");
        let (tpm, manager) = finish(step, start_manager(&lab))?;

        let step = progress.step("starting the gateway with a certificate of the manager");
        let gateway = finish(step, start_gateway(&lab, &manager))?;

        let step = progress.step("flashing the image with a first-boot file");
        let flashed = finish(step, flash(&lab, &manager, image))?;

        let options = MachineOptions { serial: SERIAL.to_owned(), ..MachineOptions::new("atm", accelerator) };
        let machine = lab.machine(options, &flashed, tpm)?;
        let figures = Figures { accelerator: accelerator.to_string(), image: size, ..Figures::default() };
        Ok(Self { thief: None, machine, gateway, manager, lab, state: State::default(), figures, progress })
    }

    /// Takes one step and prints what came of it.
    pub(crate) fn step(
        &mut self,
        what: &str,
        step: impl FnOnce(&mut Self) -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        let printed = self.progress.step(what);
        let result = step(self).with_context(|| format!("\"{what}\" does not hold"));
        match &result {
            Ok(detail) => printed.done(detail),
            Err(_) => printed.failed(),
        }
        result.map(drop)
    }

    pub(crate) fn figures(&mut self) -> &mut Figures {
        self.figures.duration = Some(self.progress.elapsed().as_secs_f64());
        &mut self.figures
    }

    /// Runs a script in the machine that must succeed.
    pub(crate) fn shell(&mut self, script: &str) -> anyhow::Result<String> {
        Ok(self.machine.shell(script)?.ok()?)
    }

    /// Prints the ends of all logs, after a step that did not hold.
    pub(crate) fn show_logs(&mut self) {
        if self.machine.is_on()
            && let Ok(journal) = self.machine.shell("vpnctl status; journalctl -b -u vpnd --no-pager | tail -n 40")
        {
            eprintln!("---- the machine's vpnd\n{}", journal.stdout);
        }
        for (name, text) in self.lab.logs() {
            eprintln!("---- {name}\n{text}");
        }
    }
}

fn finish<T>(step: Step, result: anyhow::Result<T>) -> anyhow::Result<T> {
    match &result {
        Ok(_) => step.done(""),
        Err(_) => step.failed(),
    }
    result
}

fn start_manager(lab: &Lab) -> anyhow::Result<(m2m_lab::Swtpm, Manager)> {
    let tpm = lab.tpm("atm")?;
    let mut manager = lab.manager(&ManagerOptions::default())?;
    manager.accept_ek_ca(&lab.ek_ca_file()?, &[SERIAL])?;
    manager.start()?;
    Ok((tpm, manager))
}

fn start_gateway(lab: &Lab, manager: &Manager) -> anyhow::Result<Gateway> {
    let mut gateway = lab.gateway(manager)?;
    gateway.start()?;
    Ok(gateway)
}

fn flash(lab: &Lab, manager: &Manager, image: &Path) -> anyhow::Result<FlashedImage> {
    Ok(lab.flash("image", image, Some(&manager.first_boot()?))?)
}
