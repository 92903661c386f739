use std::{env, path::PathBuf};

use anyhow::ensure;

/// The disk image: the file in `M2MVPN_IMAGE`, otherwise the one that `qemu/run` leaves.
///
/// # Errors
/// When there is none.
pub fn image() -> anyhow::Result<PathBuf> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/image/m2mvpn.img");
    let path = env::var_os("M2MVPN_IMAGE").map_or_else(|| PathBuf::from(built), PathBuf::from);
    ensure!(
        path.is_file(),
        "{} does not exist: make it by `image-config/build --bin target/debug`, set M2MVPN_IMAGE, or leave these tests out by \
         `tests/run --quick`",
        path.display()
    );
    Ok(path)
}
