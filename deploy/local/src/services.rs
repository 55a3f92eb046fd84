//! Tributary's three services as children of the launcher, each configured by its environment.
//!
//! The redirector's socket is the launcher's: each start of the redirector inherits it. While none
//! runs, connections wait in the kernel's queue; a restart, even after `kill -9`, refuses nobody.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::net::TcpSocket;
use tokio::process::Command;

use crate::engines::Addresses;
use crate::ports::Port;
use crate::run_file::{Entry, Section};
use crate::secrets::Secrets;
use crate::supervisor::Program;
use crate::system::System;
use crate::{Error, artifacts, demo, http};

/// Connections that may wait for the redirector while it restarts; the kernel may hold fewer
/// (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// The first inherited socket's number, and how the child is told how many there are: systemd's
/// protocol.
const FIRST_INHERITED: i32 = 3;
const INHERITED_COUNT: &str = "LISTEN_FDS";

/// The ports of the services.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Services")]
pub(crate) struct ServiceOptions {
    /// Port of the redirector [default: 8080, or a free one].
    #[arg(long, env = "REDIRECTOR_PORT")]
    redirector_port: Option<u16>,
    /// Port of the admin API and its pages [default: 8081, or a free one].
    #[arg(long, env = "ADMIN_API_PORT")]
    admin_api_port: Option<u16>,
    /// Port of the redirector's metrics [default: 9101, or a free one].
    #[arg(long, env = "REDIRECTOR_METRICS_PORT")]
    redirector_metrics_port: Option<u16>,
    /// Port of the processor's metrics [default: 9102, or a free one].
    #[arg(long, env = "PROCESSOR_METRICS_PORT")]
    processor_metrics_port: Option<u16>,
    /// Port of the admin API's metrics [default: 9103, or a free one].
    #[arg(long, env = "ADMIN_API_METRICS_PORT")]
    admin_api_metrics_port: Option<u16>,
}

/// One service.
#[derive(Debug)]
struct Service {
    name: &'static str,
    /// Its name in `run.json`.
    key: &'static str,
    program: PathBuf,
    /// Where it serves, beside its metrics. It never moves: others were told.
    listen: Option<Port>,
    /// The socket of `listen`, where the launcher holds it.
    socket: Option<TcpListener>,
    metrics: Port,
    environment: Vec<(&'static str, String)>,
}

impl Service {
    fn metrics_base(&self) -> String {
        url(&self.metrics)
    }
}

impl Program for Service {
    fn name(&self) -> &'static str {
        self.name
    }

    fn entry(&self) -> Entry {
        let base = self.metrics_base();
        let metrics = format!("{base}/metrics");
        let fields = [
            ("url", self.listen.as_ref().map_or(base, url)),
            ("metrics", metrics),
        ];
        Entry::new(Section::Services, self.key, fields)
    }

    fn ports(&mut self) -> Vec<&mut Port> {
        vec![&mut self.metrics]
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("METRICS_LISTEN", socket(&self.metrics));
        if let Some(listen) = &self.listen {
            command.env("LISTEN", socket(listen));
        }
        if let Some(socket) = &self.socket {
            hand_over(socket, &mut command);
        }
        command
    }

    async fn probe(&self, _pid: u32) -> Result<(), String> {
        http::get(&format!("{}/readyz", self.metrics_base()))
            .await
            .map(|_| ())
    }

    fn start_limit(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// A service finishes what it holds: the redirector gives Kafka up to 10 seconds.
    fn stop_limit(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// Listens on `port`, on behalf of a service that may not be there yet.
fn listen(port: &Port) -> Result<TcpListener, Error> {
    let bind = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, port.number()).into())?;
        socket.listen(BACKLOG)?.into_std()
    };
    bind().map_err(Error::io(format!("listen on port {}", port.number())))
}

/// Lets the child have `socket` as its first inherited one. Where that is impossible (no descriptor
/// left) the child says that the address is taken, and is started again later.
fn hand_over(socket: &TcpListener, command: &mut Command) {
    let Ok(copy) = socket.try_clone() else { return };
    let mapping = FdMapping {
        parent_fd: copy.into(),
        child_fd: FIRST_INHERITED,
    };
    if command.fd_mappings(vec![mapping]).is_ok() {
        command.env(INHERITED_COUNT, "1");
    }
}

fn socket(port: &Port) -> String {
    format!("127.0.0.1:{}", port.number())
}

fn url(port: &Port) -> String {
    format!("http://{}", socket(port))
}

/// Where the services were started to serve.
#[derive(Debug)]
pub(crate) struct Urls {
    pub(crate) admin_api: String,
    pub(crate) redirector: String,
}

/// Starts the services and waits until all are ready: first the admin API, because it brings the
/// schemas up to date that the others wait for.
pub(crate) async fn start_in(
    system: &mut System,
    options: &ServiceOptions,
    secrets: &Secrets,
    engines: &Addresses,
) -> Result<Urls, Error> {
    let redirector_port = port(options.redirector_port, "REDIRECTOR_PORT", 8080)?;
    let admin_api_port = port(options.admin_api_port, "ADMIN_API_PORT", 8081)?;
    let redirector_metrics = port(
        options.redirector_metrics_port,
        "REDIRECTOR_METRICS_PORT",
        9101,
    )?;
    let processor_metrics = port(
        options.processor_metrics_port,
        "PROCESSOR_METRICS_PORT",
        9102,
    )?;
    let admin_api_metrics = port(
        options.admin_api_metrics_port,
        "ADMIN_API_METRICS_PORT",
        9103,
    )?;
    for (port, default, what) in [
        (&redirector_port, 8080, "redirector"),
        (&admin_api_port, 8081, "admin page"),
    ] {
        if port.number() != default {
            let number = port.number();
            system.console().line(&format!(
                "  {what:<12} takes port {number} instead of {default}"
            ));
        }
    }

    let urls = Urls {
        admin_api: url(&admin_api_port),
        redirector: url(&redirector_port),
    };
    let shared = || {
        let mut environment = engines.environment().to_vec();
        environment.push(("CLICK_TOKEN_KEYS", secrets.click_token_keys.clone()));
        environment.push(("SEALING_KEYS", secrets.sealing_keys.clone()));
        environment
    };
    // This machine's pages are plain http, where a Secure cookie would not come back.
    let plain_http = ("COOKIE_SECURE", String::from("false"));

    let mut environment = shared();
    environment.extend([
        plain_http.clone(),
        ("OWNER_KEY", secrets.owner_key.clone()),
        ("REDIRECT_URL", urls.redirector.clone()),
        ("DEMO_TENANT", String::from(demo::TENANT)),
    ]);
    system.spawn(Service {
        name: "admin-api",
        key: "admin_api",
        program: artifacts::service("admin-api")?,
        listen: Some(admin_api_port),
        socket: None,
        metrics: admin_api_metrics,
        environment,
    });
    system.all_ready().await?;

    system.spawn(Service {
        name: "processor",
        key: "processor",
        program: artifacts::service("processor")?,
        listen: None,
        socket: None,
        metrics: processor_metrics,
        environment: shared(),
    });
    let mut environment = shared();
    environment.extend([
        plain_http,
        ("FINGERPRINT_KEY", secrets.fingerprint_key.clone()),
        (
            "JOURNAL_DIR",
            system.data().join("journal").display().to_string(),
        ),
        // So that `make replay` can send clicks on behalf of many addresses.
        ("TRUSTED_PROXIES", String::from("127.0.0.1/32")),
    ]);
    system.spawn(Service {
        name: "redirector",
        key: "redirector",
        program: artifacts::service("redirector")?,
        socket: Some(listen(&redirector_port)?),
        listen: Some(redirector_port),
        metrics: redirector_metrics,
        environment,
    });
    system.all_ready().await?;
    Ok(urls)
}

fn port(asked: Option<u16>, variable: &'static str, default: u16) -> Result<Port, Error> {
    Port::asked_or_near(asked, variable, default)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::process::Stdio;

    use super::*;

    #[tokio::test]
    async fn a_connection_made_while_nobody_serves_waits_for_the_next_start() {
        let port = Port::free().unwrap();
        let socket = listen(&port).unwrap();
        let mut early = TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        early.write_all(b"hello").unwrap();

        // A child that was handed the socket as descriptor 3 sees that it is a socket, and which.
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $LISTEN_FDS $(readlink /proc/self/fd/3)"])
            .stdout(Stdio::piped());
        hand_over(&socket, &mut command);
        let output = command.spawn().unwrap().wait_with_output().await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with("1 socket:["), "{said}");

        let (mut accepted, _) = socket.accept().unwrap();
        accepted.set_nonblocking(false).unwrap();
        let mut read = [0; 5];
        accepted.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"hello");
    }
}
