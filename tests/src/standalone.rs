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
