//! One engine set for a whole test process.
//!
//! Under `make test` the addresses are in the environment and nothing is started. With a plain
//! `cargo test` the first test that asks starts a set in a temporary folder. Tests share it, so each
//! uses databases, topics and key prefixes of its own.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::data_dir::DataDir;
use crate::engines::{EngineOptions, Engines, start};

/// The temporary folders' names begin with this; the process id follows.
const PREFIX: &str = "tributary-test-";

/// The process's engines, started at the first call, which blocks until they are healthy.
///
/// # Panics
/// If they can't be started; the message says what to do.
#[must_use]
#[allow(clippy::panic)] // For tests only: without engines they can't go on.
pub fn engines() -> &'static Engines {
    static ENGINES: OnceLock<Result<Engines, String>> = OnceLock::new();
    let engines = ENGINES.get_or_init(|| {
        let temporary = std::env::temp_dir();
        remove_left_behind(&temporary);
        let data = temporary.join(format!("{PREFIX}{}", std::process::id()));
        let options = EngineOptions::from_env()?;
        start(&data, options).map_err(|error| error.to_string())
    });
    match engines {
        Ok(engines) => engines,
        Err(error) => panic!("{error}"),
    }
}

/// A static is never dropped, so each process leaves its folder; the next one removes it.
fn remove_left_behind(temporary: &Path) {
    let folders = std::fs::read_dir(temporary).into_iter().flatten().flatten();
    let ours = folders
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path());
    for folder in ours.collect::<Vec<PathBuf>>() {
        let unused = DataDir::open(&folder).is_ok_and(|data| data.lock().is_ok());
        if unused {
            // Somebody else's folder can't be removed, and need not be.
            let _ = std::fs::remove_dir_all(&folder);
        }
    }
}
