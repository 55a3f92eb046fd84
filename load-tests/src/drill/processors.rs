//! Processors beside the launcher's: the same program with the same environment, but for where they serve
//! their metrics. They end with this process, however that ends: the kernel kills them when the thread that
//! started them, the main one, is gone.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Client;
use tokio::process::{Child, Command};
use tributary_shared::names;

use super::field::{PROCESSOR, beside};
use crate::Error;
use crate::peers::process::free_address;
use crate::run_file::Pids;

/// How long one may take to become ready: Kafka gives the partitions of one that was killed to others
/// after 6 s, and waits for all when they are shared out.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long one that was told to end may take.
const STOP_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The longest that one question to a processor may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The setting that each has for itself.
const METRICS_LISTEN: &str = "METRICS_LISTEN";

/// The drill's own processors, by their numbers; the launcher's is the first.
#[derive(Debug)]
pub(super) struct Processors {
    run: PathBuf,
    client: Client,
    running: BTreeMap<usize, Processor>,
    /// How the launcher's was started, once one like it is wanted.
    likeness: Option<Likeness>,
    /// Clicks that were stored by those that have ended, as they said last.
    stored: u64,
}

#[derive(Debug)]
struct Processor {
    child: Child,
    operations: SocketAddr,
}

/// A program and its environment.
#[derive(Debug, Clone)]
struct Likeness {
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl Processors {
    pub(super) fn new(run: &Path) -> Result<Self, Error> {
        Ok(Self {
            run: run.to_owned(),
            client: Client::builder()
                .no_proxy()
                .timeout(ANSWER_WITHIN)
                .build()
                .map_err(Error::http("make a client"))?,
            running: BTreeMap::new(),
            likeness: None,
            stored: 0,
        })
    }

    /// How many run, with the launcher's.
    pub(super) fn len(&self) -> usize {
        1 + self.running.len()
    }

    /// Starts or ends as many as it takes until `wanted` run, and waits until new ones are ready. Of those that
    /// are too many, every other one is killed, the others are told to end.
    pub(super) async fn resize(&mut self, wanted: usize) -> Result<(), Error> {
        while self.len() > wanted {
            let signal = if self.len().is_multiple_of(2) {
                Signal::SIGTERM
            } else {
                Signal::SIGKILL
            };
            self.end(self.len(), signal).await?;
        }
        while self.len() < wanted {
            let n = self.len() + 1;
            self.start(n)?;
            self.ready(n).await?;
        }
        Ok(())
    }

    /// Sends `signal` to the n-th, waits until it is gone and starts another in its place. True if it was ready.
    pub(super) async fn strike(&mut self, n: usize, signal: Signal) -> Result<bool, Error> {
        let ready = self.is_ready(n).await;
        self.end(n, signal).await?;
        self.start(n)?;
        Ok(ready)
    }

    /// Waits until the n-th is ready.
    pub(super) async fn ready(&self, n: usize) -> Result<(), Error> {
        let began = Instant::now();
        while !self.is_ready(n).await {
            if began.elapsed() > READY_WITHIN {
                return Err(Error::NotBack {
                    name: log_name(n),
                    seconds: READY_WITHIN.as_secs(),
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Tells all of them to end, and says how many clicks they have stored in their time, at least: what one
    /// stored after it was last asked is not in it.
    pub(super) async fn finish(&mut self) -> Result<u64, Error> {
        self.resize(1).await?;
        Ok(self.stored)
    }

    async fn is_ready(&self, n: usize) -> bool {
        let answer = self.ask(n, "readyz").await;
        answer.is_some_and(|answer| answer.status().is_success())
    }

    async fn ask(&self, n: usize, page: &str) -> Option<reqwest::Response> {
        let operations = self.running.get(&n)?.operations;
        let asked = self.client.get(format!("http://{operations}/{page}"));
        asked.send().await.ok()
    }

    fn start(&mut self, n: usize) -> Result<(), Error> {
        let Likeness {
            program,
            environment,
        } = self.likeness()?;
        let operations = free_address()?;
        let log = beside(&self.run)
            .join("logs")
            .join(format!("{}.log", log_name(n)));
        let opened = || {
            let log = File::options().create(true).append(true).open(&log)?;
            Ok((log.try_clone()?, log))
        };
        let (output, errors) =
            opened().map_err(Error::io(format!("write to {}", log.display())))?;
        // It replaces itself by the program, so the child's id is the program's.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&program)
            .env_clear()
            .envs(environment)
            .env(METRICS_LISTEN, operations.to_string())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::io(format!("start {}", program.display())))?;
        self.running.insert(n, Processor { child, operations });
        Ok(())
    }

    async fn end(&mut self, n: usize, signal: Signal) -> Result<(), Error> {
        let stored = match self.ask(n, "metrics").await {
            Some(answer) => answer.text().await.map_or(0, |text| clicks_written(&text)),
            None => 0,
        };
        self.stored += stored;
        let Some(mut processor) = self.running.remove(&n) else {
            return Ok(());
        };
        // The id is the child's own until it was waited for.
        let pid = processor.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        let ended = tokio::time::timeout(STOP_WITHIN, processor.child.wait()).await;
        ended.map(drop).map_err(|_| Error::NotEnded {
            name: log_name(n),
            seconds: STOP_WITHIN.as_secs(),
        })
    }

    /// How the launcher's processor was started; asked once, because it may be away later.
    fn likeness(&mut self) -> Result<Likeness, Error> {
        if let Some(known) = &self.likeness {
            return Ok(known.clone());
        }
        let pid = Pids::read(&self.run)?
            .of(PROCESSOR)
            .ok_or(Error::NotUp { name: PROCESSOR })?;
        let failed = || Error::io(format!("see how the launcher's {PROCESSOR} was started"));
        let likeness = Likeness {
            program: std::fs::read_link(format!("/proc/{pid}/exe")).map_err(failed())?,
            environment: environment(
                &std::fs::read(format!("/proc/{pid}/environ")).map_err(failed())?,
            ),
        };
        Ok(self.likeness.insert(likeness).clone())
    }
}

/// The name of the n-th, as of its log.
fn log_name(n: usize) -> String {
    format!("{PROCESSOR}-{n}")
}

/// What `/proc/PID/environ` holds.
fn environment(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    let text = |bytes| OsStr::from_bytes(bytes).to_owned();
    bytes
        .split(|byte| *byte == 0)
        .filter_map(|setting| {
            let equals = setting.iter().position(|byte| *byte == b'=')?;
            Some((text(&setting[..equals]), text(&setting[equals + 1..])))
        })
        .collect()
}

/// How many clicks a processor says that it has stored.
fn clicks_written(metrics: &str) -> u64 {
    let line = format!("{}{{table=\"clicks\"}} ", names::FACTS_WRITTEN);
    metrics
        .lines()
        .find_map(|text| text.strip_prefix(&line)?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_read_as_it_was_given() {
        let settings = environment(b"A=1\0EMPTY=\0URL=a=b\0no setting\0");
        let expected = [("A", "1"), ("EMPTY", ""), ("URL", "a=b")];
        assert_eq!(settings, expected.map(|(n, v)| (n.into(), v.into())));
    }

    #[test]
    fn stored_clicks_are_told_from_other_facts() {
        let metrics = "# TYPE tributary_facts_written_total counter\n\
            tributary_facts_written_total{table=\"conversions\"} 3\n\
            tributary_facts_written_total{table=\"clicks\"} 1234\n";
        assert_eq!(clicks_written(metrics), 1234);
        assert_eq!(clicks_written(""), 0);
    }

    #[tokio::test]
    async fn without_a_launcher_there_is_nothing_to_be_like() {
        let mut processors = Processors::new(Path::new("/nowhere/run.json")).unwrap();
        assert!(matches!(
            processors.resize(2).await,
            Err(Error::RunFile { .. })
        ));
        assert_eq!(processors.finish().await.unwrap(), 0);
    }
}
