//! What runs and may be struck: the launcher's own children, and processors of the drill's beside them.
//!
//! The launcher restarts what dies and says in `run.json` which process of that name is on its way or
//! ready; a further processor is the drill's own child, started again by it (`processors`).

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::processors::Processors;
use crate::Error;
use crate::run_file::Pids;

/// How long a victim may take to come back.
const BACK_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Where the launcher looks for holds, beside `run.json`.
const HOLD_FOLDER: &str = "hold";
/// The launcher's processor; the drill's own are counted from 2 on.
pub(crate) const PROCESSOR: &str = "processor";

/// Whom a fault happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Victim {
    /// The launcher's, by its name in `run.json`, the logs and the holds.
    Launched(&'static str),
    /// A processor of the drill's own, by its number.
    Further(usize),
}

impl Victim {
    /// The n-th processor: the launcher's is the first.
    pub(crate) fn processor(n: usize) -> Self {
        if n <= 1 {
            Self::Launched(PROCESSOR)
        } else {
            Self::Further(n)
        }
    }

    /// What kind of process it is.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Launched(name) => name,
            Self::Further(_) => PROCESSOR,
        }
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launched(name) => f.write_str(name),
            Self::Further(n) => write!(f, "{PROCESSOR} {n}"),
        }
    }
}

/// A process as the launcher sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Living {
    pid: i32,
    ready: bool,
}

/// Everything that can be struck.
#[derive(Debug)]
pub(crate) struct Field {
    run: PathBuf,
    /// The launcher's children that were struck last, by name.
    struck: HashMap<&'static str, i32>,
    pub(super) processors: Processors,
}

impl Field {
    pub(crate) fn new(run: &Path) -> Result<Self, Error> {
        Ok(Self {
            run: run.to_owned(),
            struck: HashMap::new(),
            processors: Processors::new(run)?,
        })
    }

    /// Sends `signal` to whoever is the victim now, ready or not. True if it was ready.
    pub(crate) async fn strike(&mut self, victim: Victim, signal: Signal) -> Result<bool, Error> {
        let name = match victim {
            Victim::Launched(name) => name,
            Victim::Further(n) => return self.processors.strike(n, signal).await,
        };
        if !self.struck.contains_key(name) && Pids::read(&self.run)?.of(name).is_none() {
            return Err(Error::NotUp { name });
        }
        loop {
            let living = self.living(name).await?;
            self.struck.insert(name, living.pid);
            match kill(Pid::from_raw(living.pid), signal) {
                Ok(()) => return Ok(living.ready),
                // It ended by itself just now: its successor is meant.
                Err(Errno::ESRCH) => {}
                Err(error) => {
                    return Err(Error::io(format!("send a signal to {name}"))(error.into()));
                }
            }
        }
    }

    /// Waits until another process has been started in the place of a victim that was struck.
    pub(crate) async fn restarted(&self, victim: Victim) -> Result<(), Error> {
        match victim {
            Victim::Launched(name) => self.living(name).await.map(drop),
            // It was, when it was struck.
            Victim::Further(_) => Ok(()),
        }
    }

    /// Waits until a victim that was struck is ready again.
    pub(crate) async fn back(&self, victim: Victim) -> Result<(), Error> {
        let name = match victim {
            Victim::Launched(name) => name,
            Victim::Further(n) => return self.processors.ready(n).await,
        };
        self.until(name, |living| living.ready).await.map(drop)
    }

    /// The launcher's child of that name which was not struck yet, once there is one.
    async fn living(&self, name: &'static str) -> Result<Living, Error> {
        self.until(name, |_| true).await
    }

    async fn until(
        &self,
        name: &'static str,
        enough: impl Fn(&Living) -> bool,
    ) -> Result<Living, Error> {
        let began = Instant::now();
        while began.elapsed() < BACK_WITHIN {
            let pids = Pids::read(&self.run)?;
            let starting = pids.starting(name).map(|pid| Living { pid, ready: false });
            let ready = pids.of(name).map(|pid| Living { pid, ready: true });
            let other = |living: &Living| self.struck.get(name) != Some(&living.pid);
            if let Some(living) = ready.or(starting).filter(other).filter(&enough) {
                return Ok(living);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(Error::NotBack {
            name: name.to_owned(),
            seconds: BACK_WITHIN.as_secs(),
        })
    }

    /// Keeps the launcher from restarting `name` while the file is open.
    pub(crate) fn hold(&self, name: &'static str) -> Result<File, Error> {
        let folder = beside(&self.run).join(HOLD_FOLDER);
        let locked = || {
            std::fs::create_dir_all(&folder)?;
            let file = File::create(folder.join(name))?;
            file.lock()?;
            Ok(file)
        };
        locked().map_err(Error::io(format!("hold {name} in {}", folder.display())))
    }
}

/// The data folder: the one that `run.json` stands in.
pub(crate) fn beside(run: &Path) -> &Path {
    run.parent().unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn field(name: &str) -> Field {
        let folder = std::env::temp_dir().join(format!("tributary-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Field::new(&folder.join("run.json")).unwrap()
    }

    fn write(field: &Field, up: Option<i32>, starting: Option<i32>) {
        let mut text = String::from(r#"{"services": {}, "engines": {"#);
        if let Some(pid) = up {
            write!(text, r#""kafka": {{"pid": {pid}}}"#).unwrap();
        }
        text.push('}');
        if let Some(pid) = starting {
            write!(text, r#", "starting": {{"kafka": {pid}}}"#).unwrap();
        }
        text.push('}');
        std::fs::write(&field.run, text).unwrap();
    }

    #[test]
    fn nobody_comes_back_while_the_hold_is_held() {
        let field = field("hold");
        let held = field.hold("kafka").unwrap();
        let folder = beside(&field.run);
        let look = File::open(folder.join(HOLD_FOLDER).join("kafka")).unwrap();
        assert!(look.try_lock_shared().is_err());
        drop(held);
        assert!(look.try_lock_shared().is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn who_was_struck_is_not_taken_for_its_successor() {
        let mut field = field("successor");
        let kafka = Victim::Launched("kafka");
        write(&field, None, None);
        let error = field.strike(kafka, Signal::SIGKILL).await.unwrap_err();
        assert!(matches!(error, Error::NotUp { .. }), "{error}");

        field.struck.insert("kafka", 10);
        write(&field, None, Some(11));
        let starting = field.living("kafka").await.unwrap();
        assert_eq!(
            starting,
            Living {
                pid: 11,
                ready: false
            }
        );
        // The launcher has not seen yet that 10 is gone; 12 is.
        write(&field, Some(10), None);
        let look = Duration::from_millis(100);
        assert!(
            tokio::time::timeout(look, field.restarted(kafka))
                .await
                .is_err()
        );
        write(&field, None, Some(12));
        assert!(
            tokio::time::timeout(look, field.back(kafka)).await.is_err(),
            "it is not ready"
        );
        write(&field, Some(12), None);
        field.back(kafka).await.unwrap();
        std::fs::remove_dir_all(beside(&field.run)).unwrap();
    }
}
