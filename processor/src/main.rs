//! The processing service: reads its settings, opens its listener, runs until it is told to stop. With
//! a subcommand, a person's tool for the dead letters.

use tokio::net::TcpListener;
use tributary_processor::dead_letters_command::{self, CommandError, DeadLettersCommand};
use tributary_processor::{Cli, Config, RunError, run};
use tributary_shared::{service, telemetry};

/// A click is a dozen short texts, which are made on one thread and given back on another: the system's
/// allocator took a fifth of the processor's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    match Cli::parse() {
        Cli::Service(config) => {
            telemetry::init_logging(config.log.log_format);
            service::exit_code(serve(*config).await)
        }
        Cli::DeadLetters(command) => {
            telemetry::init_logging(command.log.log_format);
            service::exit_code(dead_letters(*command).await)
        }
    }
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
