//! Redis: one multiplexed connection that reconnects by itself; a command that meets a broken
//! connection still fails, and every command has a deadline.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError};

use crate::config::RedisConfig;

/// How long one connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest pause between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// A connection whose every command fails after `response_timeout`. Connects with the first command,
/// so a service starts while Redis is away.
///
/// # Errors
/// When the address can't be read.
pub fn connect(
    config: &RedisConfig,
    response_timeout: Duration,
) -> Result<ConnectionManager, RedisError> {
    let client = Client::open(config.redis_url.as_str())?;
    let settings = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(response_timeout))
        .set_max_delay(MAX_RECONNECT_DELAY);
    ConnectionManager::new_lazy_with_config(client, settings)
}
