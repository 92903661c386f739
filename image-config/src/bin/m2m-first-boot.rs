//! `m2m-first-boot`: runs in the image at every boot, before the network, and makes of the first-boot file what the other
//! programs read.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use m2m_image::{machine, network};
use m2m_protocol::config_file;
use m2m_protocol::first_boot::{FirstBoot, HostnamePattern};
use m2m_protocol::machine::Machine;
use m2m_protocol::names::Token;

/// Configures this machine from its first-boot file, for this boot.
///
/// Reads the first-boot file and the machine's serial number, and writes below /run: a copy of the file and machine.json
/// for vpnd, the uplinks for systemd-networkd, the time servers for systemd-timesyncd, the time zone. Sets the host name.
///
/// A missing or wrong file is printed and written to /run/m2mvpn/first-boot.error. No uplink is configured then.
#[derive(Parser)]
#[command(
    name = "m2m-first-boot",
    version,
    after_help = "Example:
  m2m-first-boot                                  what the image's m2mvpn-first-boot.service runs
  m2m-first-boot --root /tmp/try --file first-boot.toml
                                                  shows below /tmp/try/run what a machine would get"
)]
struct Arguments {
    /// The first-boot file.
    #[arg(long, value_name = "FILE", default_value = "/efi/m2mvpn/first-boot.toml")]
    file: PathBuf,
    /// Read the machine and write below this directory; with another than / the host name is left alone.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match configure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("m2mvpn: {error:#}");
            eprintln!("m2mvpn: this machine stays without network; set a right file with m2m-image set-first-boot");
            let report = arguments.root.join("run/m2mvpn/first-boot.error");
            if let Err(error) = write(&report, &format!("{error:#}\n")) {
                eprintln!("m2mvpn: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn configure(arguments: &Arguments) -> Result<()> {
    let run = arguments.root.join("run");
    clear(&run)?;
    let serial = match machine::serial(&arguments.root) {
        Some(serial) => serial,
        None => "unknown".parse::<Token>().map_err(anyhow::Error::msg)?,
    };
    let first_boot = read(&arguments.file);
    let pattern =
        first_boot.as_ref().map_or_else(|_| HostnamePattern::default(), |(file, _)| file.device.hostname.clone());
    let hostname = pattern.hostname(&serial);
    let machine = Machine { serial, hostname };
    write(&run.join("m2mvpn/machine.json"), &serde_json::to_string(&machine)?)?;
    if arguments.root == Path::new("/") {
        nix::unistd::sethostname(&machine.hostname).context("the host name cannot be set")?;
    }

    let (first_boot, text) = first_boot?;
    set_timezone(&arguments.root, first_boot.device.timezone.as_str())?;
    for file in network::files(&first_boot) {
        write(&run.join(file.path), &file.content)?;
    }
    // Last: who sees this file sees the rest too.
    write(&run.join("m2mvpn/first-boot.toml"), &text)?;
    println!(
        "m2mvpn: this is {} (serial number {}); it enrols with {} over {}",
        machine.hostname,
        machine.serial.as_str(),
        first_boot.manager.url,
        first_boot.uplinks.iter().map(|uplink| uplink.interface.as_str()).collect::<Vec<_>>().join(", "),
    );
    Ok(())
}

fn read(file: &Path) -> Result<(FirstBoot, String)> {
    let text =
        fs::read_to_string(file).with_context(|| format!("the first-boot file {} cannot be read", file.display()))?;
    Ok((config_file::parse(file, &text)?, text))
}

/// Removes what an earlier run left, so that a second run with another file leaves nothing of the first.
fn clear(run: &Path) -> Result<()> {
    let mut stale = vec![
        run.join("m2mvpn/first-boot.error"),
        run.join("m2mvpn/first-boot.toml"),
        run.join("systemd/timesyncd.conf.d/20-m2mvpn.conf"),
    ];
    let networks = run.join("systemd/network");
    if let Ok(entries) = fs::read_dir(&networks) {
        let is_ours = |name: &str| name.starts_with("10-m2mvpn-") && name.ends_with(".network");
        let entries = entries.filter_map(Result::ok);
        stale.extend(entries.filter(|entry| entry.file_name().to_str().is_some_and(is_ours)).map(|entry| entry.path()));
    }
    stale.iter().try_for_each(|path| remove(path))
}

/// `/etc/localtime` of the image points to this link.
fn set_timezone(root: &Path, name: &str) -> Result<()> {
    let zone = Path::new("/usr/share/zoneinfo").join(name);
    let known = root.join(zone.strip_prefix("/")?).is_file();
    if !known {
        eprintln!("m2mvpn: device.timezone: this image does not know {name:?}; the time zone is UTC");
    }
    let link = root.join("run/m2mvpn/localtime");
    remove(&link)?;
    make_directory(&link)?;
    let zone = if known { &zone } else { Path::new("/usr/share/zoneinfo/UTC") };
    symlink(zone, &link).with_context(|| format!("{} cannot be made", link.display()))
}

/// Writes a file that everybody may read, whatever the umask says: the services that read it are not root.
fn write(path: &Path, content: &str) -> Result<()> {
    make_directory(path)?;
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o644)))
        .with_context(|| format!("{} cannot be written", path.display()))
}

fn make_directory(path: &Path) -> Result<()> {
    let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) else { return Ok(()) };
    fs::create_dir_all(directory)
        .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(0o755)))
        .with_context(|| format!("{} cannot be made", directory.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}
