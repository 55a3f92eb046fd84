//! PostgreSQL: a cluster of its own in the data folder, with one role and one database for Tributary.
//!
//! PostgreSQL refuses to run as root. Where the launcher is root, `setpriv` starts it as Debian's
//! user `postgres`; where that user can't reach the data folder (it may lie under `/root`, or in a
//! private temporary folder), it also gets the capability to pass such folders.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{User, chown, geteuid};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::run_helper;
use crate::data_dir::DataDir;
use crate::ports::Port;
use crate::run_file::{Entry, Section};
use crate::supervisor::{Program, Stop};
use crate::{Error, artifacts};

/// Debian's account for the server.
const ACCOUNT: &str = "postgres";
/// The cluster's superuser, for the launcher alone.
const SUPERUSER: &str = "postgres";
/// The role and the database of the services.
const ROLE: &str = "tributary";

#[derive(Debug)]
pub(crate) struct Postgres {
    programs: PathBuf,
    cluster: PathBuf,
    port: Port,
    password: String,
}

impl Postgres {
    pub(crate) fn new(data: &DataDir, port: Port, password: String) -> Result<Self, Error> {
        let cluster = data.join("postgres");
        Ok(Self {
            programs: artifacts::postgres_programs(&cluster)?,
            cluster,
            port,
            password,
        })
    }

    pub(super) fn entry_for(url: String) -> Entry {
        Entry::new(Section::Engines, "postgres", [("url", url)])
    }

    /// A PostgreSQL program, under an account that it accepts.
    fn as_account(&self, program: &str, folder: &Path) -> Command {
        let program = self.programs.join(program);
        if !geteuid().is_root() {
            return Command::new(program);
        }
        let mut command = setpriv();
        // The kernel forgets a death signal when the account changes, so setpriv sets it again.
        command.args(["--pdeathsig", "QUIT"]);
        if !can_reach(folder) {
            command.args(["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]);
        }
        command.arg(program);
        command
    }

    /// Makes the cluster beside its final place, so that a half-made one is never taken for whole.
    async fn make_cluster(&self) -> Result<(), Error> {
        let new = self.cluster.with_extension("new");
        let failed = |doing: &str| Error::io(format!("{doing} {}", new.display()));
        if new.exists() {
            std::fs::remove_dir_all(&new).map_err(failed("remove"))?;
        }
        let password_file = new.join("password");
        std::fs::create_dir(&new)
            .and_then(|()| std::fs::set_permissions(&new, PermissionsExt::from_mode(0o700)))
            .and_then(|()| std::fs::create_dir(new.join("cluster")))
            .and_then(|()| std::fs::write(&password_file, &self.password))
            .map_err(failed("create"))?;
        if geteuid().is_root() {
            let account = account()?;
            for path in [&new, &new.join("cluster"), &password_file] {
                chown(path, Some(account.uid), Some(account.gid))
                    .map_err(std::io::Error::from)
                    .map_err(failed("give the account postgres"))?;
            }
        }
        let mut command = self.as_account("initdb", &new);
        command
            .arg("--pgdata")
            .arg(new.join("cluster"))
            .arg("--pwfile")
            .arg(&password_file)
            .args(["--username", SUPERUSER, "--auth", "scram-sha-256"])
            .args(["--encoding", "UTF8", "--locale", "C", "--no-instructions"]);
        run_helper("initdb", command).await?;
        std::fs::rename(new.join("cluster"), &self.cluster)
            .and_then(|()| std::fs::remove_dir_all(&new))
            .map_err(failed("finish"))
    }
}

impl Program for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn entry(&self) -> Entry {
        let (password, port) = (&self.password, self.port.number());
        Self::entry_for(format!(
            "postgres://{ROLE}:{password}@127.0.0.1:{port}/{ROLE}"
        ))
    }

    fn ports(&mut self) -> Vec<&mut Port> {
        vec![&mut self.port]
    }

    async fn prepare(&self) -> Result<(), Error> {
        if self.cluster.join("PG_VERSION").exists() {
            return Ok(());
        }
        self.make_cluster().await
    }

    fn command(&self) -> Command {
        let mut command = self.as_account("postgres", &self.cluster);
        command.arg("-D").arg(&self.cluster);
        for setting in [
            format!("port={}", self.port.number()),
            String::from("listen_addresses=127.0.0.1"),
            String::from("unix_socket_directories="),
            // The tests' databases have a pool each.
            String::from("max_connections=200"),
            String::from("shared_buffers=128MB"),
            String::from("timezone=UTC"),
            String::from("log_timezone=UTC"),
        ] {
            command.arg("-c").arg(setting);
        }
        command
    }

    /// Signs in with the password that only this cluster knows, and sees to role and database.
    async fn probe(&self, _pid: u32) -> Result<(), String> {
        TcpStream::connect(("127.0.0.1", self.port.number()))
            .await
            .map_err(|error| error.to_string())?;
        let statements = format!(
            "SELECT 'CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD ''{password}'''
               WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') \\gexec
             SELECT 'CREATE DATABASE {ROLE} OWNER {ROLE}'
               WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{ROLE}') \\gexec\n",
            password = self.password
        );
        let ask = async {
            let mut psql = Command::new(self.programs.join("psql"))
                .args(["--no-psqlrc", "--no-password", "--quiet", "--tuples-only"])
                .args(["--host", "127.0.0.1", "--username", SUPERUSER])
                .args(["--dbname", "postgres", "--set", "ON_ERROR_STOP=1"])
                .arg("--port")
                .arg(self.port.number().to_string())
                .env("PGPASSWORD", &self.password)
                .env_remove("PGOPTIONS")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            if let Some(mut input) = psql.stdin.take() {
                // If psql could not connect, the pipe is closed; its message says more.
                let _ = input.write_all(statements.as_bytes()).await;
            }
            psql.wait_with_output().await
        };
        let output = ask.await.map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    fn start_limit(&self) -> Duration {
        // After a kill the write-ahead log is replayed first.
        Duration::from_secs(120)
    }

    /// "Fast": connections are closed, a checkpoint is written.
    fn stop(&self) -> Stop {
        Stop::Signal(Signal::SIGINT)
    }

    fn stop_limit(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// "Immediate": its own processes leave with it; the next start recovers.
    fn death_signal(&self) -> Signal {
        Signal::SIGQUIT
    }
}

fn setpriv() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups"]);
    command
}

fn account() -> Result<User, Error> {
    User::from_name(ACCOUNT)
        .ok()
        .flatten()
        .ok_or_else(|| Error::Missing {
            what: format!("the account {ACCOUNT}, which Debian's package postgresql brings,"),
            bring_it: "make setup",
        })
}

/// Whether the account can go into `folder`.
fn can_reach(folder: &Path) -> bool {
    setpriv()
        .args(["test", "-x"])
        .arg(folder)
        .as_std_mut()
        .status()
        .is_ok_and(|status| status.success())
}
