//! The command line of the device daemon.

fn main() {}
