use std::{fs, path::Path};

use anyhow::{Context, anyhow};
use m2m_lab::Node;

/// What `docs/standalone.md` has its reader do, word for word but for the directories: two machines would not share
/// them, two nodes of a lab do.
#[derive(Debug, Clone)]
pub struct StandalonePage {
    /// Commands that make the certificates of gateway and device in the current directory.
    pub certificates: String,
    /// `gateway.toml`.
    pub gateway_toml: String,
    /// `vpnd.toml`.
    pub vpnd_toml: String,
    /// Commands on the device.
    pub device_commands: String,
}

impl StandalonePage {
    /// Reads the page and moves all its files to the directory `place`.
    ///
    /// # Errors
    /// When the page has other blocks of code than it used to.
    pub fn moved_to(place: &str) -> anyhow::Result<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/standalone.md");
        let page = fs::read_to_string(path).context(path)?;
        let [certificates, _, _, device_commands] =
            blocks(&page, "sh")?.try_into().map_err(|_| anyhow!("{path}: expected four blocks of commands"))?;
        let [gateway_toml, vpnd_toml] =
            blocks(&page, "toml")?.try_into().map_err(|_| anyhow!("{path}: expected two files"))?;
        let moved = |text: &str| {
            ["/etc/m2m-gateway", "/etc/m2mvpn", "/var/lib/vpnd"]
                .iter()
                .fold(text.to_owned(), |text, old| text.replace(old, place))
        };
        Ok(Self {
            certificates,
            gateway_toml: format!("state_dir = \"{place}/gateway\"\n{}", moved(&gateway_toml)),
            vpnd_toml: format!("socket = \"{place}/vpnd.sock\"\n{}", moved(&vpnd_toml)),
            device_commands,
        })
    }
}

/// A section of `docs/authentication.md`: what makes the key ready, and the table that names it.
#[derive(Debug, Clone)]
pub struct AuthenticationSection {
    /// Commands beside the certificates of [`StandalonePage`]; empty when there is nothing to do.
    pub commands: String,
    /// The table of `vpnd.toml`.
    pub table: String,
}

impl AuthenticationSection {
    /// Reads the section with this heading and moves its files to the directory `place`.
    ///
    /// # Errors
    /// When it is not there, or has no table.
    pub fn moved_to(heading: &str, place: &str) -> anyhow::Result<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/authentication.md");
        let page = fs::read_to_string(path).context(path)?;
        let section = page.split("\n## ").find(|section| section.lines().next() == Some(heading));
        let section = section.with_context(|| format!("{path}: no section {heading:?}"))?;
        let table = blocks(section, "toml")?.pop().with_context(|| format!("{path}: {heading:?} has no table"))?;
        Ok(Self {
            commands: blocks(section, "sh")?.pop().unwrap_or_default(),
            table: table.replace("/etc/m2mvpn", place),
        })
    }
}

/// Runs `commands` in `directory` of a node and returns what they print.
///
/// # Errors
/// When they fail.
pub fn shell(node: &Node, directory: &Path, commands: &str) -> anyhow::Result<String> {
    let commands = format!("set -e\ncd {}\n{commands}", directory.display());
    Ok(node.exec(&["bash", "-c", &commands])?.ok()?)
}

/// The fenced code blocks of one language, in order.
fn blocks(page: &str, language: &str) -> anyhow::Result<Vec<String>> {
    let fence = format!("```{language}\n");
    let block = |rest: &str| rest.split_once("```").map(|(block, _)| block.to_owned());
    page.split(&fence).skip(1).map(|rest| block(rest).context("a block of code has no end")).collect()
}
