//! The data folder: one launcher at a time, private files written whole or not at all, bounded logs.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::Error;

/// A log longer than this is set aside (one older is kept) when its child starts.
const LOG_LIMIT_BYTES: u64 = 16 * 1024 * 1024;

/// How much of a log's end a failure shows.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 16 * 1024;

/// A data folder that exists.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    root: PathBuf,
}

/// Held by the launcher that owns the folder; the kernel lets go of it when the launcher ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl DataDir {
    /// Creates the folder where it is missing.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(root.join("logs")).map_err(Error::io(format!(
            "create the data folder {}",
            root.display()
        )))?;
        let root = root
            .canonicalize()
            .map_err(Error::io(format!("open {}", root.display())))?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder of one engine.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.root.join(name);
        std::fs::create_dir_all(&folder)
            .map_err(Error::io(format!("create {}", folder.display())))?;
        Ok(folder)
    }

    /// Makes this process the folder's only launcher.
    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        let path = self.join("launcher.lock");
        let failed = || format!("lock {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io(failed()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(Error::Running {
                    data: self.root.clone(),
                    pid: pid.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(Error::io(failed())(source)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(Error::io(failed()))?;
        Ok(Lock { _file: file })
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Opens a child's log for appending and says how long it is already.
    pub(crate) fn open_log(&self, name: &str) -> Result<(File, u64), Error> {
        let path = self.log_path(name);
        let failed = || format!("open the log {}", path.display());
        let mut length = std::fs::metadata(&path).map_or(0, |file| file.len());
        if length > LOG_LIMIT_BYTES {
            std::fs::rename(&path, path.with_extension("log.1")).map_err(Error::io(failed()))?;
            length = 0;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(Error::io(failed()))?;
        Ok((file, length))
    }

    /// The last lines that a child wrote after `from`, indented, for a person.
    pub(crate) fn log_tail(&self, name: &str, from: u64) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.log_path(name))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(
                from.max(length.saturating_sub(TAIL_BYTES)).min(length),
            ))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..]
            .iter()
            .map(|line| format!("    {line}\n"))
            .collect()
    }
}

/// Replaces a file that only its owner may read: another process sees the old content or the new.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let write = || -> std::io::Result<()> {
        let new = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(Error::io(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_second_launcher_learns_who_is_first() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let first = data.lock().unwrap();
        let message = data.lock().unwrap_err().to_string();
        assert!(
            message.contains(&format!("pid {}", std::process::id())),
            "{message}"
        );
        drop(first);
        assert!(data.lock().is_ok());
    }

    #[test]
    fn a_long_log_is_set_aside_once() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        std::fs::write(data.log_path("x"), "one\n").unwrap();
        assert_eq!(data.open_log("x").unwrap().1, 4);
        let (log, _) = data.open_log("x").unwrap();
        log.set_len(LOG_LIMIT_BYTES + 1).unwrap();
        assert_eq!(data.open_log("x").unwrap().1, 0);
        assert!(data.join("logs/x.log.1").exists());
    }

    #[test]
    fn the_tail_shows_the_last_lines_of_this_start_only() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        std::fs::write(data.log_path("x"), "old\nnew 1\nnew 2\n").unwrap();
        assert_eq!(data.log_tail("x", 4), "    new 1\n    new 2\n");
        assert_eq!(data.log_tail("none", 0), "");
    }

    #[test]
    fn a_private_file_is_replaced_whole_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        write_private(&path, b"one").unwrap();
        let before = File::open(&path).unwrap();
        write_private(&path, b"two").unwrap();
        let mut old = String::new();
        { before }.read_to_string(&mut old).unwrap();
        assert_eq!(
            old, "one",
            "a reader that opened the old file keeps all of it"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
