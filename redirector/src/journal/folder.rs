//! A redirector's own folder inside the journal's, and the folders that others have left behind.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::segment::EXTENSION;

const LOCK: &str = "lock";
/// Clicks hold addresses: nobody else reads them.
const MODE: u32 = 0o700;

/// A folder that this process has locked. Unlocked when dropped, or when the process dies.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// A new one in `root`, which is made when it isn't there.
    pub(super) fn create(root: &Path, id: Uuid) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(MODE).create(root)?;
        let path = root.join(id.to_string());
        DirBuilder::new().mode(MODE).create(&path)?;
        Self::lock(path)?.ok_or_else(|| io::Error::other("another redirector took the new folder"))
    }

    /// None: its owner lives, or it is gone.
    fn lock(path: PathBuf) -> io::Result<Option<Self>> {
        let name = path.join(LOCK);
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&name);
        let lock = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Between opening and locking, its last owner may have removed it.
        let same = fs::metadata(&name).is_ok_and(|there| {
            lock.metadata()
                .is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
        });
        Ok(same.then_some(Self { path, _lock: lock }))
    }

    /// The folders in `root` whose owners are dead, oldest first. They are this process's now.
    pub(super) fn left_behind(root: &Path) -> io::Result<Vec<Self>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let ours = entry
                .file_name()
                .to_str()
                .is_some_and(|name| Uuid::parse_str(name).is_ok());
            if ours && entry.file_type()?.is_dir() {
                paths.push(entry.path());
            }
        }
        paths.sort();
        let mut folders = Vec::new();
        for path in paths {
            folders.extend(Self::lock(path)?);
        }
        Ok(folders)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The segments' files; those of conversions oldest first.
    pub(super) fn segments(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == EXTENSION) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// Removes it if nothing is left in it but its lock.
    pub(super) fn remove_if_empty(self) -> io::Result<()> {
        let lock = self.path.join(LOCK);
        let others = fs::read_dir(&self.path)?
            .filter_map(Result::ok)
            .any(|entry| entry.path() != lock);
        if !others {
            fs::remove_file(lock)?;
            fs::remove_dir(&self.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    #[test]
    fn a_folder_has_one_owner_and_is_taken_over_when_it_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("journal");
        let first = Folder::create(&root, id(1)).unwrap();
        fs::write(first.path().join(format!("x.{EXTENSION}")), "x").unwrap();
        assert!(Folder::left_behind(&root).unwrap().is_empty());
        drop(first);
        let found = Folder::left_behind(&root).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].segments().unwrap().len(), 1);
        assert!(Folder::left_behind(&root).unwrap().is_empty());
    }

    #[test]
    fn an_empty_folder_goes_and_a_used_one_stays() {
        let root = tempfile::tempdir().unwrap();
        let empty = Folder::create(root.path(), id(1)).unwrap();
        let used = Folder::create(root.path(), id(2)).unwrap();
        fs::write(used.path().join("x.damaged"), "x").unwrap();
        let (gone, kept) = (empty.path().to_owned(), used.path().to_owned());
        empty.remove_if_empty().unwrap();
        used.remove_if_empty().unwrap();
        assert!(!gone.exists() && kept.exists());
    }

    #[test]
    fn other_files_in_the_folder_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("lost+found")).unwrap();
        assert!(Folder::left_behind(root.path()).unwrap().is_empty());
    }
}
