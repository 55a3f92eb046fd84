//! Redis: the edge index in memory. Nothing is persisted: `admin-api sync` rebuilds it from
//! PostgreSQL, so a restart must not bring back an older state.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::data_dir::DataDir;
use crate::ports::Port;
use crate::run_file::{Entry, Section};
use crate::supervisor::Program;
use crate::{Error, artifacts};

#[derive(Debug)]
pub(crate) struct Redis {
    program: PathBuf,
    folder: PathBuf,
    port: Port,
}

impl Redis {
    pub(crate) fn new(data: &DataDir, port: Port) -> Result<Self, Error> {
        Ok(Self {
            program: artifacts::on_path("redis-server")?,
            folder: data.folder("redis")?,
            port,
        })
    }

    pub(super) fn entry_for(url: String) -> Entry {
        Entry::new(Section::Engines, "redis", [("url", url)])
    }
}

impl Program for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn entry(&self) -> Entry {
        Self::entry_for(format!("redis://127.0.0.1:{}", self.port.number()))
    }

    fn ports(&mut self) -> Vec<&mut Port> {
        vec![&mut self.port]
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--bind", "127.0.0.1", "--daemonize", "no"])
            .args(["--save", "", "--appendonly", "no"])
            // A full Redis must refuse a write, not forget a link.
            .args(["--maxmemory-policy", "noeviction"])
            .arg("--port")
            .arg(self.port.number().to_string())
            .arg("--dir")
            .arg(&self.folder);
        command
    }

    /// Redis tells its process id.
    async fn probe(&self, pid: u32) -> Result<(), String> {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port.number())).await?;
            stream.write_all(b"INFO server\r\nQUIT\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = ask.await.map_err(|error| error.to_string())?;
        if answer
            .lines()
            .any(|line| line.strip_prefix("process_id:") == Some(&pid.to_string()))
        {
            Ok(())
        } else {
            Err(String::from("another program answers on its port"))
        }
    }

    fn start_limit(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn stop_limit(&self) -> Duration {
        Duration::from_secs(5)
    }
}
