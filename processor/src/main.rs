//! The processing service: reads its settings, opens its listener, runs until it is told to stop.

use clap::Parser as _;
use tokio::net::TcpListener;
use tributary_processor::{Config, RunError, run};
use tributary_shared::{service, telemetry};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let config = Config::parse();
    telemetry::init_logging(config.log.log_format);
    service::exit_code(serve(config).await)
}

async fn serve(config: Config) -> Result<(), RunError> {
    let operations = TcpListener::bind(config.metrics_listen).await?;
    run(config, operations, service::stop_signal()?).await
}
