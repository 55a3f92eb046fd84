//! Where the running system is: the launcher's `run.json`.

use std::path::Path;

use serde::Deserialize;

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
        let failed = |why: String| Error::RunFile {
            path: path.to_owned(),
            why,
        };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| failed(format!("not complete yet ({e})")))
    }
}
