//! The processing service: reads its settings, opens its listener, runs until it is told to stop. With
//! a subcommand, a person's tool.

use std::process::ExitCode;

use tokio::net::TcpListener;
use tributary_processor::dead_letters_command::{self, CommandError, DeadLettersCommand};
use tributary_processor::replay_command::{self, ReplayCommand, ReplayError};
use tributary_processor::{Cli, Config, RunError, Tool, ledger_command, run};
use tributary_shared::{service, telemetry};

/// A click is a dozen short texts, which are made on one thread and given back on another: the system's
/// allocator took a fifth of the processor's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse() {
        Cli::Service(config) => {
            telemetry::init_logging(config.log.log_format);
            service::exit_code(serve(*config).await)
        }
        Cli::Tool(tool) => use_tool(*tool).await,
    }
}

async fn use_tool(tool: Tool) -> ExitCode {
    let mut out = std::io::stdout();
    match tool {
        Tool::DeadLetters(command) => {
            telemetry::init_logging(command.log.log_format);
            service::exit_code(dead_letters(command).await)
        }
        Tool::Replay(command) => {
            telemetry::init_logging(command.log.log_format);
            service::exit_code(replay(&command, &mut out).await)
        }
        Tool::Ledger(command) => {
            telemetry::init_logging(command.log.log_format);
            service::exit_code(ledger_command::run(&command, &mut out).await)
        }
    }
}

async fn replay(command: &ReplayCommand, out: &mut std::io::Stdout) -> Result<(), ReplayError> {
    replay_command::run(command, out, &service::stop_signal()?).await
}

async fn serve(config: Config) -> Result<(), RunError> {
    let operations = TcpListener::bind(config.metrics_listen).await?;
    run(config, operations, service::stop_signal()?).await
}

async fn dead_letters(command: DeadLettersCommand) -> Result<(), CommandError> {
    let stop = service::stop_signal()?;
    let work = move || dead_letters_command::run(&command, &mut std::io::stdout(), &stop);
    tokio::task::spawn_blocking(work).await?
}
