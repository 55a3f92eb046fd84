//! The edge process: reads its settings, opens its listeners, runs until it is told to stop.

use std::io;
use std::net::SocketAddr;

use clap::Parser as _;
use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tributary_redirector::{Config, Listeners, RunError, run};
use tributary_shared::{service, telemetry};

/// Connections that may wait in the kernel for this process, or for its successor.
const BACKLOG: i32 = 4096;

fn main() -> std::process::ExitCode {
    let config = Config::parse();
    telemetry::init_logging(config.log.log_format);
    service::exit_code(start(config))
}

// Shoppers are served by threads of their own; this runtime has what is left.
#[tokio::main(flavor = "current_thread")]
async fn start(config: Config) -> Result<(), RunError> {
    let mut inherited = ListenFd::from_env();
    let http = listener(&mut inherited, 0, config.listen)?;
    let https = match config.tls_listen {
        Some(address) => Some(listener(&mut inherited, 1, address)?),
        None => None,
    };
    let operations = TcpListener::bind(config.metrics_listen).await?;
    let listeners = Listeners {
        http,
        https,
        operations,
    };
    run(config, listeners, service::stop_signal()?).await
}

/// The socket that whoever started this process holds for it (systemd's protocol: descriptor 3 for
/// http, 4 for https), so that connections wait in the kernel while it restarts; else one of its own.
fn listener(
    inherited: &mut ListenFd,
    number: usize,
    address: SocketAddr,
) -> io::Result<TcpListener> {
    let listener = match inherited.take_tcp_listener(number)? {
        Some(inherited) => inherited,
        None => {
            let socket = Socket::new(
                Domain::for_address(address),
                Type::STREAM,
                Some(Protocol::TCP),
            )?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            socket.into()
        }
    };
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
