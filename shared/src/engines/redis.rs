//! Redis: one multiplexed connection that reconnects by itself; a command that meets a broken
//! connection still fails, and every command has a deadline. And one that listens: over it Redis
//! tells which keys have changed.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, RedisError, Value,
};

use crate::config::RedisConfig;

/// How long one connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest pause between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// Commands that may wait to be sent; a further one waits outside.
const PIPELINE: usize = 1000;
/// How long Redis may take over a command on the listening connection.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection whose every command fails after `response_timeout`. Connects with the first command,
/// so a service starts while Redis is away. It lives on the runtime that calls this.
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
        .set_max_delay(MAX_RECONNECT_DELAY)
        .set_pipeline_buffer_size(PIPELINE);
    ConnectionManager::new_lazy_with_config(client, settings)
}

/// What Redis tells a listener.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// These keys were written, deleted or have expired.
    Changed(Vec<Vec<u8>>),
    /// Anything may have: FLUSHALL, or a message that can't be read.
    ChangedAll,
    /// Nothing more will be told over this connection.
    Lost,
}

/// Listens to changes of keys that begin with one of `prefixes` (taken literally; none may be the
/// beginning of another). Once this has returned no change is missed until [`Told::Lost`], which is
/// not told of a peer that vanished silently: send a command now and then. `told` must not block.
///
/// # Errors
/// When Redis is away, older than 6, or forbids it.
pub async fn listen(
    config: &RedisConfig,
    prefixes: &[String],
    told: impl Fn(Told) + Send + Sync + 'static,
) -> Result<MultiplexedConnection, RedisError> {
    let address = Client::open(config.redis_url.as_str())?;
    let address = address.get_connection_info().clone();
    let resp3 = address
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(LISTENER_TIMEOUT))
        .set_push_sender(move |push: PushInfo| {
            if let Some(what) = read(&push) {
                told(what);
            }
            Ok::<(), RedisError>(())
        });
    let mut connection = Client::open(address.set_redis_settings(resp3))?
        .get_multiplexed_async_connection_with_config(&settings)
        .await?;
    let mut track = redis::cmd("CLIENT");
    track.arg("TRACKING").arg("ON").arg("BCAST");
    for prefix in prefixes {
        track.arg("PREFIX").arg(prefix);
    }
    track.query_async::<()>(&mut connection).await?;
    Ok(connection)
}

/// None: not ours.
fn read(push: &PushInfo) -> Option<Told> {
    match push.kind {
        PushKind::Disconnection => Some(Told::Lost),
        // One list of keys; a null in its place after FLUSHALL.
        PushKind::Invalidate => Some(match push.data.as_slice() {
            [Value::Array(keys)] => keys
                .iter()
                .map(|key| match key {
                    Value::BulkString(key) => Some(key.clone()),
                    _ => None,
                })
                .collect::<Option<_>>()
                .map_or(Told::ChangedAll, Told::Changed),
            _ => Told::ChangedAll,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalidate(data: Vec<Value>) -> Option<Told> {
        read(&PushInfo {
            kind: PushKind::Invalidate,
            data,
        })
    }

    #[test]
    fn what_redis_tells_is_read() {
        let keys = Value::Array(vec![
            Value::BulkString(b"x:code:a".to_vec()),
            Value::BulkString(b"\xff".to_vec()),
        ]);
        let read_keys = vec![b"x:code:a".to_vec(), b"\xff".to_vec()];
        assert_eq!(invalidate(vec![keys]), Some(Told::Changed(read_keys)));
    }

    #[test]
    fn what_names_no_keys_may_mean_any() {
        let odd = Value::Array(vec![Value::BulkString(b"a".to_vec()), Value::Int(1)]);
        for data in [vec![Value::Nil], vec![], vec![odd]] {
            assert_eq!(invalidate(data), Some(Told::ChangedAll));
        }
    }
}
