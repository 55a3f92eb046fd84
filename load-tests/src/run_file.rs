//! Where the running system is: the launcher's `run.json`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;

#[derive(Debug, Deserialize)]
pub(crate) struct RunFile {
    pub(crate) services: Services,
    pub(crate) engines: Engines,
    pub(crate) demo: Demo,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Services {
    pub(crate) redirector: Service,
    pub(crate) admin_api: Service,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    pub(crate) url: String,
}

impl Service {
    /// Where it listens, without a scheme.
    pub(crate) fn address(&self) -> Result<SocketAddr, Error> {
        let text = self.url.strip_prefix("http://").unwrap_or(&self.url);
        text.parse().map_err(|_| Error::Unreadable {
            doing: "read run.json".to_owned(),
            why: format!("{} is not http:// and an address with a port", self.url),
        })
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Engines {
    pub(crate) clickhouse: ClickHouseAddress,
    pub(crate) postgres: Service,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ClickHouseAddress {
    pub(crate) url: String,
    pub(crate) database: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Demo {
    pub(crate) api_key: String,
    pub(crate) postback_token: String,
}

impl RunFile {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        read(path)
    }
}

/// The process ids of what is up at this moment, or on its way there, by name as in the file (`redirector`,
/// `kafka`).
#[derive(Debug, Deserialize)]
pub(crate) struct Pids {
    services: BTreeMap<String, Process>,
    engines: BTreeMap<String, Process>,
    #[serde(default)]
    starting: BTreeMap<String, i32>,
}

#[derive(Debug, Deserialize)]
struct Process {
    pid: Option<i32>,
}

impl Pids {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        read(path)
    }

    /// None when it is down just now, or not the launcher's own.
    pub(crate) fn of(&self, name: &str) -> Option<i32> {
        let process = self.services.get(name).or_else(|| self.engines.get(name));
        process?.pid
    }

    /// What was started and is not ready yet.
    pub(crate) fn starting(&self, name: &str) -> Option<i32> {
        self.starting.get(name).copied()
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let failed = |why: String| Error::RunFile {
        path: path.to_owned(),
        why,
    };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| failed(format!("not complete yet ({e})")))
}
