//! The command line.
//!
//! `run` starts everything and serves until Ctrl-C; `engines` starts the engines alone; `exec` runs a
//! command with the addresses in its environment and ends with the command's status.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::Error;
use crate::engines::{EngineOptions, chdb};
use crate::exec::exec;
use crate::launch::{Wanted, serve};
use crate::services::ServiceOptions;
use crate::signals::Signals;
use crate::supervisor::LONGEST_PAUSE_MS;

/// Runs Tributary on one machine: engines and services as supervised child processes.
#[derive(Debug, Parser)]
#[command(name = "tributary-local", version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Start engines and services, set up the demo, serve until Ctrl-C.
    Run {
        /// The data folder; it is created where missing.
        #[arg(long, default_value = "data")]
        data: PathBuf,
        #[command(flatten)]
        engines: EngineOptions,
        #[command(flatten)]
        services: ServiceOptions,
    },
    /// Start the engines alone; serve until Ctrl-C.
    Engines {
        /// The data folder; it is created where missing.
        #[arg(long, default_value = "data")]
        data: PathBuf,
        #[command(flatten)]
        engines: EngineOptions,
    },
    /// Run a command with the addresses in its environment, beside a launcher that runs already or
    /// with engines for the duration.
    Exec {
        /// The data folder; it is created where missing.
        #[arg(long, default_value = "data")]
        data: PathBuf,
        /// With the services and the demo as well.
        #[arg(long)]
        services: bool,
        /// The longest pause before something that died is started again, in milliseconds; the pauses grow
        /// towards it.
        #[arg(long, env = "LONGEST_RESTART_PAUSE_MS", default_value_t = LONGEST_PAUSE_MS)]
        longest_restart_pause_ms: u64,
        #[command(flatten)]
        engines: EngineOptions,
        #[command(flatten)]
        service_options: ServiceOptions,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// ClickHouse, as a child of the launcher.
    #[command(hide = true)]
    ClickhouseServer {
        #[arg(long)]
        library: PathBuf,
        #[arg(long)]
        path: PathBuf,
        #[arg(long)]
        http_port: u16,
    },
}

/// Parses the command line and does what it says. Usage errors and `--help` end the process here.
pub fn main() -> Result<ExitCode, Error> {
    let task = match Cli::parse().command {
        Task::ClickhouseServer {
            library,
            path,
            http_port,
        } => {
            let status = chdb::serve(&library, &path, http_port)?;
            return Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)));
        }
        task => task,
    };
    // One thread for everything: children live as long as the thread that started them.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start a runtime"))?
        .block_on(perform(task))
}

async fn perform(task: Task) -> Result<ExitCode, Error> {
    let mut signals = Signals::listen()?;
    match task {
        Task::Run {
            data,
            engines,
            services,
        } => {
            let wanted = Wanted {
                engines,
                services: Some(services),
                longest_pause: Duration::from_millis(LONGEST_PAUSE_MS),
            };
            serve(&data, &wanted, &mut signals).await
        }
        Task::Engines { data, engines } => {
            let wanted = Wanted {
                engines,
                services: None,
                longest_pause: Duration::from_millis(LONGEST_PAUSE_MS),
            };
            serve(&data, &wanted, &mut signals).await
        }
        Task::Exec {
            data,
            services,
            longest_restart_pause_ms,
            engines,
            service_options,
            command,
        } => {
            let wanted = Wanted {
                engines,
                services: services.then_some(service_options),
                longest_pause: Duration::from_millis(longest_restart_pause_ms),
            };
            exec(&data, &wanted, &command, &mut signals).await
        }
        Task::ClickhouseServer { .. } => Ok(ExitCode::FAILURE),
    }
}
