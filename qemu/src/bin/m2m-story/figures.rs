use std::{fs, io, path::Path};

use m2m_lab::Milestones;
use serde::Serialize;

use crate::image_file::ImageSize;

/// What the table at the end says.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// What executed the machine.
    pub(crate) accelerator: String,
    /// The image.
    pub(crate) image: ImageSize,
    /// Seconds since power-on.
    pub(crate) first_boot: Boot,
    /// Seconds since power-on.
    pub(crate) second_boot: Boot,
    /// Bytes.
    pub(crate) resident: Resident,
    /// The figure of `systemd-analyze security`, from 0 (best) to 10.
    pub(crate) exposure: Option<f64>,
    /// Packets on the uplink, all of them allowed.
    pub(crate) packets: Option<usize>,
    /// Seconds that the whole story took.
    pub(crate) duration: Option<f64>,
}

/// Seconds since power-on; nothing is enrolled at a second boot.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Boot {
    pub(crate) kernel: Option<f64>,
    pub(crate) daemon: Option<f64>,
    pub(crate) key_made: Option<f64>,
    pub(crate) enrolled: Option<f64>,
    pub(crate) tunnel_up: Option<f64>,
    pub(crate) first_ping: Option<f64>,
}

/// Resident memory in bytes.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Resident {
    pub(crate) vpnd: Option<u64>,
    pub(crate) gateway: Option<u64>,
    pub(crate) manager: Option<u64>,
}

impl Boot {
    /// `kernel` and `first_ping` are seconds since power-on and since the kernel's start.
    pub(crate) fn new(kernel: f64, milestones: &Milestones, first_ping: f64) -> Self {
        let since_power_on = |since_kernel: Option<f64>| since_kernel.map(|seconds| kernel + seconds);
        Self {
            kernel: Some(kernel),
            daemon: since_power_on(milestones.started),
            key_made: since_power_on(milestones.key_made),
            enrolled: since_power_on(milestones.enrolled),
            tunnel_up: since_power_on(milestones.tunnel_up),
            first_ping: since_power_on(Some(first_ping)),
        }
    }
}

impl Figures {
    pub(crate) fn print(&self) {
        println!("\n| figure | first boot | second boot |\n|---|---|---|");
        let boots = (&self.first_boot, &self.second_boot);
        row("kernel start", boots.0.kernel, boots.1.kernel);
        row("vpnd start", boots.0.daemon, boots.1.daemon);
        row("key made", boots.0.key_made, boots.1.key_made);
        row("enrolled", boots.0.enrolled, boots.1.enrolled);
        row("tunnel up", boots.0.tunnel_up, boots.1.tunnel_up);
        row("first ping", boots.0.first_ping, boots.1.first_ping);
        println!("\n(seconds since power-on, accelerator {})\n", self.accelerator);
        println!("| figure | value |\n|---|---|");
        println!("| image, disk size | {} |", mib(Some(self.image.disk)));
        println!("| image, allocated | {} |", mib(Some(self.image.allocated)));
        println!("| image, compressed root | {} |", mib(self.image.root_compressed));
        println!("| resident memory of vpnd | {} |", mib(self.resident.vpnd));
        println!("| resident memory of gateway | {} |", mib(self.resident.gateway));
        println!("| resident memory of manager | {} |", mib(self.resident.manager));
        let exposure = self.exposure.map_or_else(dash, |figure| format!("{figure:.1}"));
        println!("| systemd-analyze security vpnd | {exposure} |");
        let packets = self.packets.map_or_else(dash, |packets| packets.to_string());
        println!("| packets on the uplink, all allowed | {packets} |");
        println!("| the whole story | {} |", self.duration.map_or_else(dash, |seconds| format!("{seconds:.0} s")));
    }

    pub(crate) fn write(&self, path: &Path, held: bool) -> io::Result<()> {
        let mut value = serde_json::to_value(self)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("every_step_held".to_owned(), held.into());
        }
        fs::write(path, format!("{value:#}\n"))
    }
}

fn row(name: &str, first: Option<f64>, second: Option<f64>) {
    let cell = |seconds: Option<f64>| seconds.map_or_else(dash, |seconds| format!("{seconds:.1}"));
    println!("| {name} | {} | {} |", cell(first), cell(second));
}

fn mib(bytes: Option<u64>) -> String {
    // Precise enough: figures are far below 2^52 bytes.
    #[expect(clippy::cast_precision_loss)]
    bytes.map_or_else(dash, |bytes| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)))
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_count_from_power_on() {
        let milestones = Milestones { started: Some(5.0), key_made: None, enrolled: Some(7.5), tunnel_up: Some(8.0) };
        let boot = Boot::new(2.0, &milestones, 8.5);
        assert_eq!(
            (boot.kernel, boot.daemon, boot.key_made, boot.enrolled, boot.first_ping),
            (Some(2.0), Some(7.0), None, Some(9.5), Some(10.5))
        );
    }
}
