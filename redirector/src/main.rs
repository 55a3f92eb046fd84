//! The edge process: reads its settings, opens its listeners, runs until it is told to stop.

use std::net::SocketAddr;

use clap::Parser as _;
use listenfd::ListenFd;
use tokio::net::TcpListener;
use tributary_redirector::{Config, RunError, run};
use tributary_shared::{service, telemetry};

fn main() -> std::process::ExitCode {
    let config = Config::parse();
    telemetry::init_logging(config.log.log_format);
    // Before there are threads, because reading the inherited socket changes the environment.
    service::exit_code(listener(config.listen).and_then(|listener| start(config, listener)))
}

#[tokio::main]
async fn start(config: Config, listener: std::net::TcpListener) -> Result<(), RunError> {
    let listener = TcpListener::from_std(listener)?;
    let operations = TcpListener::bind(config.metrics_listen).await?;
    run(config, listener, operations, service::stop_signal()?).await
}

/// The socket that whoever started this process holds for it (systemd's protocol: descriptor 3,
/// `LISTEN_FDS`), so that connections wait in the kernel while it restarts; else one of its own.
fn listener(address: SocketAddr) -> Result<std::net::TcpListener, RunError> {
    let listener = match ListenFd::from_env().take_tcp_listener(0)? {
        Some(inherited) => inherited,
        None => std::net::TcpListener::bind(address)?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}
