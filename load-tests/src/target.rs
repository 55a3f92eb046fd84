//! Whom to ask for what: the redirector's address and the demo's codes.

use std::net::SocketAddr;
use std::path::Path;

use crate::Error;
use crate::api::Api;
use crate::run_file::RunFile;

/// A redirector and codes that it knows, the most popular first.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub codes: Vec<Box<str>>,
    /// The links' ids, in the order of their codes.
    pub links: Vec<i64>,
}

impl Target {
    /// The redirector of the system whose `run.json` this is, and the demo tenant's links.
    ///
    /// # Errors
    /// When nothing runs there, or it has no active link.
    pub async fn of_running(run: &Path) -> Result<Self, Error> {
        Self::of(&RunFile::read(run)?).await
    }

    pub(crate) async fn of(system: &RunFile) -> Result<Self, Error> {
        let links = Api::new(system)?.links().await?.links;
        let code = |url: &str| url.rsplit('/').next().unwrap_or_default().into();
        Ok(Self {
            address: system.services.redirector.address()?,
            codes: links.iter().map(|link| code(&link.url)).collect(),
            links: links.iter().map(|link| link.id).collect(),
        })
    }
}
