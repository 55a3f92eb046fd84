//! The four engines on loopback: started together, or taken from the environment.
//!
//! An address that is given (`REDIS_URL`, `KAFKA_BROKERS`, `CLICKHOUSE_URL`, `DATABASE_URL`) replaces its
//! engine: none is started for it.
//!
//! Tests use [`start`], or rather [`crate::testing::engines`]: a thread of its own supervises the engines
//! for as long as the [`Engines`] value lives, and no longer than the process.

pub(crate) mod chdb;
pub(crate) mod clickhouse;
mod kafka;
mod postgres;
mod redis;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sys::signal::Signal;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::console::Console;
use crate::data_dir::DataDir;
use crate::ports::Port;
use crate::run_file::Running;
use crate::secrets::Secrets;
use crate::supervisor::die_with_launcher;
use crate::system::System;
use clickhouse::ClickHouse;
use kafka::Kafka;
use postgres::Postgres;
use redis::Redis;

/// Which engines are given, and the ports of those that are started.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Engines")]
pub struct EngineOptions {
    /// Use this Redis instead of starting one.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,
    /// Use this Kafka instead of starting one.
    #[arg(long, env = "KAFKA_BROKERS")]
    pub kafka_brokers: Option<String>,
    /// Use this ClickHouse instead of starting one.
    #[arg(long, env = "CLICKHOUSE_URL", hide_env_values = true)]
    pub clickhouse_url: Option<String>,
    /// The database in a given ClickHouse.
    #[arg(long, env = "CLICKHOUSE_DATABASE", default_value = clickhouse::DATABASE)]
    pub clickhouse_database: String,
    /// Use this PostgreSQL instead of starting one.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Port for Redis [default: a free one].
    #[arg(long, env = "REDIS_PORT")]
    pub redis_port: Option<u16>,
    /// Port for Kafka [default: a free one].
    #[arg(long, env = "KAFKA_PORT")]
    pub kafka_port: Option<u16>,
    /// Port for ClickHouse's HTTP [default: a free one].
    #[arg(long, env = "CLICKHOUSE_PORT")]
    pub clickhouse_port: Option<u16>,
    /// Port for PostgreSQL [default: a free one].
    #[arg(long, env = "POSTGRES_PORT")]
    pub postgres_port: Option<u16>,
}

impl EngineOptions {
    /// What the environment gives. The error is one line for the person who set it.
    pub fn from_env() -> Result<Self, String> {
        #[derive(Debug, clap::Parser)]
        struct Environment {
            #[command(flatten)]
            options: EngineOptions,
        }
        <Environment as clap::Parser>::try_parse_from(["environment"])
            .map(|environment| environment.options)
            .map_err(|error| error.to_string())
    }
}

/// Where the engines are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// `redis://host:port`
    pub redis_url: String,
    /// `host:port`, comma-separated
    pub kafka_brokers: String,
    /// `http://host:port`
    pub clickhouse_url: String,
    pub clickhouse_database: String,
    /// `postgres://user:password@host:port/database`; the role may create databases.
    pub database_url: String,
}

impl Addresses {
    /// As the environment variables that the services and the tests read.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("REDIS_URL", self.redis_url.clone()),
            ("KAFKA_BROKERS", self.kafka_brokers.clone()),
            ("CLICKHOUSE_URL", self.clickhouse_url.clone()),
            ("CLICKHOUSE_DATABASE", self.clickhouse_database.clone()),
            ("DATABASE_URL", self.database_url.clone()),
        ]
    }

    /// From the content of a `run.json`; the error names the engine that is not up.
    pub(crate) fn of(running: &Running) -> Result<Self, String> {
        let field = |engine: &str, field: &str| {
            running
                .address(engine, field)
                .map(str::to_owned)
                .ok_or_else(|| engine.to_owned())
        };
        Ok(Self {
            redis_url: field("redis", "url")?,
            kafka_brokers: field("kafka", "brokers")?,
            clickhouse_url: field("clickhouse", "url")?,
            clickhouse_database: field("clickhouse", "database")?,
            database_url: field("postgres", "url")?,
        })
    }
}

/// Starts what the options do not give, all at once, and waits until every engine is healthy.
pub(crate) async fn start_in(
    system: &mut System,
    options: &EngineOptions,
    secrets: &Secrets,
) -> Result<(), Error> {
    let data = system.data().clone();
    if let Some(url) = &options.redis_url {
        system.given(Redis::entry_for(url.clone()))?;
    } else {
        let port = Port::asked_or_free(options.redis_port, "REDIS_PORT")?;
        system.spawn(Redis::new(&data, port)?);
    }
    if let Some(brokers) = &options.kafka_brokers {
        system.given(Kafka::entry_for(brokers.clone()))?;
    } else {
        let port = Port::asked_or_free(options.kafka_port, "KAFKA_PORT")?;
        system.spawn(Kafka::new(&data, port)?);
    }
    if let Some(url) = &options.clickhouse_url {
        let database = options.clickhouse_database.clone();
        system.given(ClickHouse::entry_for(url.clone(), database))?;
    } else {
        let port = Port::asked_or_free(options.clickhouse_port, "CLICKHOUSE_PORT")?;
        system.spawn(ClickHouse::new(&data, port)?);
    }
    if let Some(url) = &options.database_url {
        system.given(Postgres::entry_for(url.clone()))?;
    } else {
        let port = Port::asked_or_free(options.postgres_port, "POSTGRES_PORT")?;
        let password = secrets.postgres_password.clone();
        system.spawn(Postgres::new(&data, port, password)?);
    }
    system.all_ready().await
}

/// Runs a helper program to its end; what it printed is in the error if it fails.
async fn run_helper(name: &str, mut command: Command) -> Result<(), Error> {
    die_with_launcher(&mut command, Signal::SIGKILL);
    let output = command
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(Error::io(format!("run {name}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Error::Helper {
        program: name.to_owned(),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&text).into_owned(),
    })
}

/// Engines that serve while this value lives. Dropping it stops them in order.
#[derive(Debug)]
pub struct Engines {
    addresses: Addresses,
    data: PathBuf,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl std::ops::Deref for Engines {
    type Target = Addresses;

    fn deref(&self) -> &Addresses {
        &self.addresses
    }
}

impl Engines {
    /// The data folder; its `run.json` names the engines' processes.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Stops the engines and waits for that.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It only ends early by a panic, which was printed then.
            let _ = thread.join();
        }
    }
}

/// Starts engines with their data in `data` and blocks until they are healthy.
///
/// May be called inside or outside of an async runtime; it has its own.
pub fn start(data: &Path, options: EngineOptions) -> Result<Engines, Error> {
    let stop = CancellationToken::new();
    let (tell, told) = mpsc::channel();
    let data_path = data.to_path_buf();
    let stopped = stop.clone();
    let thread = std::thread::Builder::new()
        .name(String::from("tributary-engines"))
        .spawn(move || supervise(&data_path, &options, &stopped, &tell))
        .map_err(Error::io("start the engines' thread"))?;
    match told.recv() {
        Ok(Ok(addresses)) => Ok(Engines {
            addresses,
            data: data.to_path_buf(),
            stop,
            thread: Some(thread),
        }),
        Ok(Err(error)) => {
            let _ = thread.join();
            Err(error)
        }
        Err(_) => Err(Error::io("start the engines")(std::io::Error::other(
            "their thread panicked",
        ))),
    }
}

/// The engines' thread: every child is started by it, so it lives as long as they do.
fn supervise(
    data: &Path,
    options: &EngineOptions,
    stop: &CancellationToken,
    tell: &mpsc::Sender<Result<Addresses, Error>>,
) {
    let run = async {
        let mut system = System::open(DataDir::open(data)?, Console::only_trouble())?;
        let secrets = Secrets::load_or_create(system.data())?;
        let started = start_in(&mut system, options, &secrets)
            .await
            .and_then(|()| system.addresses());
        let failed = started.is_err();
        // Nobody listens any more only if the caller is gone; then `stop` comes at once.
        let _ = tell.send(started);
        if !failed {
            stop.cancelled().await;
        }
        system.stop().await;
        Ok(())
    };
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start a runtime"))
        .and_then(|runtime| runtime.block_on(run));
    if let Err(error) = result {
        let _ = tell.send(Err(error));
    }
}
