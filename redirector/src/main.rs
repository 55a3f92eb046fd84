//! The edge process: reads its settings, opens its listeners, runs until it is told to stop.

use clap::Parser as _;
use tokio::net::TcpListener;
use tributary_redirector::{Config, Listeners, RunError, run};
use tributary_shared::{service, telemetry};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let config = Config::parse();
    telemetry::init_logging(config.log.log_format);
    service::exit_code(serve(config).await)
}

async fn serve(config: Config) -> Result<(), RunError> {
    let listeners = Listeners {
        http: TcpListener::bind(config.listen).await?,
        https: match config.tls_listen {
            Some(address) => Some(TcpListener::bind(address).await?),
            None => None,
        },
        operations: TcpListener::bind(config.metrics_listen).await?,
    };
    run(config, listeners, service::stop_signal()?).await
}
