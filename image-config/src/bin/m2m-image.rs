//! `m2m-image`: checks first-boot files, puts them on images, and tells what is in an image.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use m2m_image::{Disk, Esp, FirstBootState, Report, inspect};
use m2m_protocol::config_file;
use m2m_protocol::first_boot::{FirstBoot, Method};

/// Reads and writes images of m2mvpn: disk images, or the disks themselves.
///
/// An image becomes a certain company's image by its first-boot file, which lies on the EFI system partition and
/// names the manager, its certificate and the uplinks. It can be set before or after flashing. Nothing is mounted, and
/// no root is needed for image files.
#[derive(Parser)]
#[command(
    name = "m2m-image",
    version,
    after_help = "Examples:
  m2m-image check first-boot.toml
  m2m-image set-first-boot m2mvpn.img first-boot.toml
  m2m-image set-first-boot /dev/sdb first-boot.toml
  m2m-image inspect m2mvpn.img
  m2m-image inspect --json m2mvpn.img | jq .slots"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a first-boot file.
    ///
    /// Says nothing and exits 0 if it is right. A mistake is told with file, line, field and what was expected.
    Check {
        /// The first-boot file.
        file: PathBuf,
    },
    /// Put a first-boot file on an image, in place of the one that may be there.
    ///
    /// The file is checked first; a wrong one is refused, and the image stays as it was.
    SetFirstBoot {
        /// The disk image or disk.
        image: PathBuf,
        /// The first-boot file.
        file: PathBuf,
    },
    /// Tell what is in an image: partitions, slots with version and root hash, and the first-boot file.
    ///
    /// Exits 0 also if the first-boot file is missing or wrong; the output says so.
    Inspect {
        /// The disk image or disk.
        image: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("m2m-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Check { file } => {
            config_file::load::<FirstBoot>(file)?;
        }
        Command::SetFirstBoot { image, file } => set_first_boot(image, file)?,
        Command::Inspect { image, json } => {
            let report = Disk::open(image, false)
                .and_then(|disk| inspect(&disk))
                .with_context(|| image.display().to_string())?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print(&report);
            }
        }
    }
    Ok(())
}

fn set_first_boot(image: &Path, file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    config_file::parse::<FirstBoot>(file, &text)?;
    let disk = Disk::open(image, true).with_context(|| image.display().to_string())?;
    Esp::open(&disk)
        .and_then(|esp| esp.set_first_boot(&text))
        .with_context(|| format!("{}: the first-boot file was not written", image.display()))
}

fn print(report: &Report) {
    println!("partitions");
    for partition in &report.partitions {
        println!(
            "  {:2}  {:8.1} MiB  {}",
            partition.number,
            partition.length as f64 / f64::from(1 << 20),
            partition.name
        );
    }
    for slot in &report.slots {
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        println!("\nslot booted by {}", slot.kernel_image);
        println!("  version        {}", or_unknown(&slot.version));
        println!("  kernel         {}", or_unknown(&slot.kernel));
        println!("  kernel image   {:.1} MiB", slot.kernel_image_size as f64 / f64::from(1 << 20));
        println!("  root hash      {}", or_unknown(&slot.root_hash));
        match (&slot.root_partition, &slot.hash_partition) {
            (Some(root), Some(hash)) => println!("  partitions     {root}, {hash}"),
            _ => println!("  partitions     missing: no partition carries this root hash, the slot does not boot"),
        }
    }
    println!("\nfirst-boot file");
    match &report.first_boot {
        FirstBootState::Missing => println!("  missing; set one with m2m-image set-first-boot"),
        FirstBootState::Invalid { error } => println!("  wrong: {error}"),
        FirstBootState::Valid { content } => print_first_boot(content),
    }
}

fn print_first_boot(content: &FirstBoot) {
    println!("  manager        {}", content.manager.url);
    if let Some(label) = &content.device.label {
        println!("  label          {}", label.as_str());
    }
    println!("  host name      {}", String::from(content.device.hostname.clone()));
    println!("  time zone      {}", content.device.timezone.as_str());
    for uplink in &content.uplinks {
        let method = match uplink.method {
            Method::Dhcp => "DHCP",
            Method::Static => "static addresses",
        };
        println!("  uplink         {}, {method}, priority {}", uplink.interface.as_str(), uplink.priority);
    }
}
