use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{LabError, Result};

/// Where the product's programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// The directory in the environment variable `M2MVPN_BIN`, otherwise the one that this program was built into.
    ///
    /// # Errors
    /// When this program's own path cannot be read.
    pub fn find() -> Result<Self> {
        if let Some(directory) = env::var_os("M2MVPN_BIN") {
            let directory = std::path::absolute(PathBuf::from(directory)).map_err(LabError::io("read M2MVPN_BIN"))?;
            return Ok(Self { directory });
        }
        let own = env::current_exe().map_err(LabError::io("find this program's own path"))?;
        let directory = own.parent().unwrap_or(Path::new("/"));
        // Test programs are one level deeper than the programs they test.
        let directory = if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
        Ok(Self { directory: directory.to_owned() })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of a program.
    ///
    /// # Errors
    /// [`LabError::Missing`] when it has not been built.
    pub fn path(&self, program: &str) -> Result<String> {
        let path = self.directory.join(program);
        if path.is_file() {
            return Ok(path.to_string_lossy().into_owned());
        }
        let hint = "build the programs (cargo build --workspace), or set M2MVPN_BIN to where they are".to_owned();
        Err(LabError::Missing { path, hint })
    }
}
