//! Everything that one launcher runs: what was started, and how all of it stops in order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::console::Console;
use crate::data_dir::{DataDir, Lock};
use crate::engines::Addresses;
use crate::run_file::{DemoAccess, Entry, RunFile, Running};
use crate::supervisor::{Child, Context, Event, LONGEST_PAUSE_MS, Observer, Program};

/// First what takes clicks in, last what the others need while they finish.
const STOP_ORDER: [&str; 7] = [
    "redirector",
    "processor",
    "admin-api",
    "kafka",
    "clickhouse",
    "postgres",
    "redis",
];

/// A launcher's hold on a data folder and on its children.
#[derive(Debug)]
pub(crate) struct System {
    context: Context,
    outside: Arc<Outside>,
    children: Vec<Child>,
    _lock: Lock,
}

/// What others see of it: lines for the person, `run.json` for scripts.
#[derive(Debug)]
struct Outside {
    console: Console,
    file: Mutex<RunFile>,
}

impl Outside {
    fn file(&self) -> MutexGuard<'_, RunFile> {
        // The content is whole even if a holder panicked: it is changed by single inserts.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Outside {
    fn event(&self, name: &'static str, event: Event) {
        self.console.event(name, &event);
        let written = match event {
            Event::Started { pid } => self.file().starts(name, pid),
            Event::Ready { entry, .. } => self.file().add(entry),
            Event::Exited { .. } | Event::Stopped { .. } | Event::Killed => {
                self.file().remove(name)
            }
        };
        if let Err(error) = written {
            self.console.trouble(&error.to_string());
        }
    }
}

impl System {
    /// Takes the folder; what a killed launcher left of `run.json` is replaced.
    pub(crate) fn open(data: DataDir, console: Console) -> Result<Self, Error> {
        let lock = data.lock()?;
        let outside = Arc::new(Outside {
            console,
            file: Mutex::new(RunFile::create(&data)?),
        });
        Ok(Self {
            context: Context {
                data,
                observer: Arc::clone(&outside) as Arc<dyn Observer>,
                kill: CancellationToken::new(),
                longest_pause: Duration::from_millis(LONGEST_PAUSE_MS),
            },
            outside,
            children: Vec::new(),
            _lock: lock,
        })
    }

    pub(crate) fn data(&self) -> &DataDir {
        &self.context.data
    }

    pub(crate) fn console(&self) -> &Console {
        &self.outside.console
    }

    /// Of the children that are spawned from now on: how long the pause before a restart may become.
    pub(crate) fn set_longest_pause(&mut self, longest: Duration) {
        self.context.longest_pause = longest;
    }

    /// Cancel it to stop waiting for children that take their time to end.
    pub(crate) fn kill_switch(&self) -> CancellationToken {
        self.context.kill.clone()
    }

    /// Notes an engine that somebody else runs.
    pub(crate) fn given(&self, entry: Entry) -> Result<(), Error> {
        self.outside.console.given(&entry);
        self.outside.file().add(entry)
    }

    /// Begins to start a child; [`System::all_ready`] waits for it.
    pub(crate) fn spawn(&mut self, program: impl Program) {
        self.children.push(Child::spawn(program, &self.context));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// Waits until every child has been healthy once; the first that can't be is the error.
    pub(crate) async fn all_ready(&mut self) -> Result<(), Error> {
        try_join_all(self.children.iter_mut().map(Child::ready)).await?;
        Ok(())
    }

    pub(crate) fn set_demo(&self, demo: DemoAccess) -> Result<(), Error> {
        self.outside.file().set_demo(demo)
    }

    pub(crate) fn running(&self) -> Running {
        self.outside.file().content().clone()
    }

    pub(crate) fn addresses(&self) -> Result<Addresses, Error> {
        Addresses::of(&self.running()).map_err(|engine| {
            Error::io(format!("find the address of {engine}"))(std::io::Error::other(
                "it ended just now",
            ))
        })
    }

    /// Stops all children, one after the other, and removes `run.json`.
    pub(crate) async fn stop(&mut self) {
        self.children.sort_by_key(|child| {
            STOP_ORDER
                .iter()
                .position(|name| *name == child.name())
                .unwrap_or_default()
        });
        for child in self.children.drain(..) {
            child.stop().await;
        }
        if let Err(error) = self.outside.file().delete() {
            self.outside.console.trouble(&error.to_string());
        }
    }
}
