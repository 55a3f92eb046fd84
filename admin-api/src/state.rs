//! What every handler has at hand.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::Clock;
use tributary_shared::engines;
use tributary_shared::sealing::SealingKeys;
use tributary_shared::secrets::token_hash;

use crate::analytics::Facts;
use crate::analytics::live::Streams;
use crate::config::Config;
use crate::exports::Exports;
use crate::idempotency::Fingerprints;
use crate::passwords::Passwords;

/// Connections to PostgreSQL.
const POOL_CONNECTIONS: u32 = 12;

/// The API's state; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub postgres: PgPool,
    pub facts: Facts,
    pub clock: Clock,
    pub passwords: Passwords,
    pub settings: Arc<Settings>,
    pub streams: Streams,
    pub exports: Exports,
    /// Ends what would go on for ever.
    pub stopping: CancellationToken,
    configuration_ready: Arc<watch::Sender<bool>>,
}

/// What the configuration says, in the form that handlers need.
#[derive(Debug)]
pub(crate) struct Settings {
    pub owner_key_hash: [u8; 32],
    pub sealing: SealingKeys,
    pub fingerprints: Fingerprints,
    pub redirect_url: String,
    pub demo_tenant: Option<String>,
    pub cookie_secure: bool,
}

impl App {
    /// Connects to nothing yet.
    pub(crate) fn new(
        config: &Config,
        clock: Clock,
        stopping: CancellationToken,
    ) -> Result<Self, sqlx::Error> {
        Ok(Self {
            postgres: engines::postgres::pool(
                &config.engines.database,
                "admin-api",
                POOL_CONNECTIONS,
            )?,
            facts: Facts::new(&config.engines.clickhouse),
            passwords: Passwords::new(clock.clone()),
            clock,
            settings: Arc::new(Settings {
                owner_key_hash: token_hash(config.owner_key.expose()),
                sealing: config.sealing_keys.clone(),
                fingerprints: Fingerprints::new(&config.owner_key),
                redirect_url: config.redirect_url.clone(),
                demo_tenant: config.demo_tenant.clone(),
                cookie_secure: config.cookie_secure,
            }),
            streams: Streams::default(),
            exports: Exports::default(),
            stopping,
            configuration_ready: Arc::new(watch::Sender::new(false)),
        })
    }

    /// Whether PostgreSQL's schema is known to be current: all but analytics can be served.
    pub(crate) fn configuration_is_ready(&self) -> bool {
        *self.configuration_ready.borrow()
    }

    pub(crate) fn set_configuration_ready(&self) {
        self.configuration_ready.send_replace(true);
    }

    /// Returns once PostgreSQL's schema is known to be current.
    pub(crate) async fn wait_for_configuration(&self) {
        // The sender lives as long as self: waiting can't fail.
        let _ = self
            .configuration_ready
            .subscribe()
            .wait_for(|ready| *ready)
            .await;
    }
}
