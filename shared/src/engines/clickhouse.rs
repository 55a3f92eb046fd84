//! ClickHouse: the official client over a connection without Nagle's delay (20 ms → 2 ms for small
//! inserts), with inserts that are answered when they are stored.

use clickhouse::Client;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

use crate::config::ClickHouseConfig;

/// The server closes an idle connection after 3 s; we let go a little earlier.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client of the facts' database.
#[must_use]
pub fn client(config: &ClickHouseConfig) -> Client {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let http = HttpClient::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build(connector);
    let mut client = Client::with_http_client(http)
        .with_url(config.clickhouse_url.as_str())
        .with_database(config.clickhouse_database.as_str())
        .with_setting("async_insert", "0");
    if let Some(user) = &config.clickhouse_user {
        client = client.with_user(user.as_str());
    }
    if let Some(password) = &config.clickhouse_password {
        client = client.with_password(password.expose());
    }
    client
}
