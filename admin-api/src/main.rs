//! The admin API's process: reads its settings and runs what they ask for.

use std::process::ExitCode;

use clap::Parser as _;
use tributary_admin_api::config::Cli;
use tributary_shared::{service, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init_logging(cli.log.log_format);
    service::exit_code(tributary_admin_api::execute(cli).await)
}
