//! The whole story of a machine that joins its company's network by itself, told step by step in a lab.

mod application;
mod chapters;
mod figures;
mod image_file;
mod keep;
mod progress;
mod story;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use m2m_lab::{Lab, LabOptions, machine::Choice};
use progress::Progress;
use story::Story;

/// Boots an image in QEMU and follows it from power-on into its company's network, and through bad days.
///
/// The machine has UEFI firmware and a TPM 2.0 (swtpm); the internet, the gateway, the manager and the company are network
/// namespaces of this process. Every packet on the machine's uplink is captured and judged at the end.
#[derive(Debug, Parser)]
#[command(name = "qemu/run", after_help = AFTER_HELP)]
struct Options {
    /// The disk image: UEFI, x86_64, systemd 256 or later, with vpnd in it.
    #[arg(long, value_name = "FILE", required_unless_present = "network_only")]
    image: Option<PathBuf>,
    /// Leave the lab running at the end, tell how to reach everything in it, and wait for Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What executes the machine: tcg (emulation), kvm, or auto, which tries KVM with a guest of a few bytes first.
    #[arg(long, value_name = "NAME", default_value = "tcg")]
    accel: Choice,
    /// Start only the network of the lab, without image and programs, and wait for Ctrl-C.
    #[arg(long)]
    network_only: bool,
}

const AFTER_HELP: &str = "\
Needs root. The programs m2m-manager, m2m-gateway and m2m-image are taken from the directory in M2MVPN_BIN, otherwise from
the one that this program is in.

Exit status: 0 when every step held, 1 when one did not, 2 for wrong arguments. However it ends (Ctrl-C, SIGKILL), no process,
namespace or file of the lab stays behind.

Examples:
  qemu/run                          builds everything, then tells the story
  qemu/run --image my-yocto.wic     the same story of another image
  qemu/run --keep                   look around afterwards";

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let options = Options::parse();
    let told = match options.network_only {
        true => network_only(),
        false => tell(&options),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nqemu/run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(options: &Options) -> anyhow::Result<()> {
    let image = options.image.as_deref().context("--image FILE is missing")?;
    let progress = Progress::start(chapters::COUNT);
    let mut story = Story::begin(progress, image, options.accel)?;
    let told = chapters::tell(&mut story);
    if told.is_err() {
        story.show_logs();
    } else {
        story.figures().print();
    }
    if let Some(path) = &options.json {
        story.figures().write(path, told.is_ok()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.keep {
        keep::until_interrupted(&mut story);
    }
    told
}

fn network_only() -> anyhow::Result<()> {
    let lab = Lab::start(LabOptions::default()).context("cannot start the lab")?;
    println!("lab process {}", lab.init_pid());
    keep::nodes(&lab);
    keep::wait();
}
