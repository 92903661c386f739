//! The whole story of a machine that joins its company's network by itself, told step by step in a lab.

use anyhow::Context;
use clap::Parser;
use m2m_lab::{Lab, LabOptions};

#[derive(Debug, Parser)]
struct Options {
    /// Start only the network of the lab, without image and programs, and keep it until Ctrl-C.
    #[arg(long)]
    network_only: bool,
}

fn main() -> anyhow::Result<()> {
    env_logger::init();
    let options = Options::parse();
    if options.network_only {
        return network_only();
    }
    Ok(())
}

fn network_only() -> anyhow::Result<()> {
    let lab = Lab::start(LabOptions::default()).context("cannot start the lab")?;
    println!("lab process {}", lab.init_pid());
    loop {
        std::thread::park();
    }
}
