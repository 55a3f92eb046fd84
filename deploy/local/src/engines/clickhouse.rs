//! ClickHouse: a child that runs the launcher's own program as [`super::chdb`]'s server.

use std::path::PathBuf;
use std::time::Duration;

use tokio::process::Command;

use crate::data_dir::DataDir;
use crate::ports::Port;
use crate::run_file::{Entry, Section};
use crate::supervisor::{Program, Stop};
use crate::{Error, artifacts, http};

/// The database that the services use.
pub(crate) const DATABASE: &str = "tributary";

#[derive(Debug)]
pub(crate) struct ClickHouse {
    launcher: PathBuf,
    library: PathBuf,
    folder: PathBuf,
    port: Port,
}

impl ClickHouse {
    pub(crate) fn new(data: &DataDir, port: Port) -> Result<Self, Error> {
        Ok(Self {
            launcher: artifacts::launcher()?,
            library: artifacts::libchdb()?,
            folder: data.folder("clickhouse")?,
            port,
        })
    }

    pub(super) fn entry_for(url: String, database: String) -> Entry {
        let fields = [("url", url), ("database", database)];
        Entry::new(Section::Engines, "clickhouse", fields)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }
}

impl Program for ClickHouse {
    fn name(&self) -> &'static str {
        "clickhouse"
    }

    fn entry(&self) -> Entry {
        Self::entry_for(self.url(), DATABASE.to_owned())
    }

    fn ports(&mut self) -> Vec<&mut Port> {
        vec![&mut self.port]
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.launcher);
        command
            .arg("clickhouse-server")
            .arg("--library")
            .arg(&self.library)
            .arg("--path")
            .arg(&self.folder)
            .arg("--http-port")
            .arg(self.port.number().to_string())
            .current_dir(&self.folder);
        command
    }

    /// It is this child if it stores its data in this folder: the folder is locked by one server.
    async fn probe(&self, _pid: u32) -> Result<(), String> {
        let url = self.url();
        let question = "SELECT path FROM system.disks WHERE name = 'default'";
        let folder = http::post(&url, question.to_owned()).await?;
        if folder.trim().trim_end_matches('/') != self.folder.to_string_lossy() {
            return Err(String::from("another ClickHouse answers on its port"));
        }
        let create = format!("CREATE DATABASE IF NOT EXISTS {DATABASE}");
        http::post(&url, create).await.map(|_| ())
    }

    fn start_limit(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn stop(&self) -> Stop {
        Stop::CloseInput
    }

    fn stop_limit(&self) -> Duration {
        Duration::from_secs(15)
    }
}
