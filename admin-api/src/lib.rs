//! The control plane: configuration, analytics and the edge index, over HTTP.
//!
//! | module | subject |
//! |---|---|
//! | [`config`] | the settings |
//! | `server` | HTTP: bounds, deadlines, headers |
//! | `routes` | one file a resource; the page at `/` |
//! | `auth` | who asks, and for which tenant |
//! | `extract`, `validate`, `error` | requests in, problems out |
//! | `idempotency` | a POST that is sent twice creates once |
//! | `routing` | where a link's clicks go besides its destination |
//! | `pages`, `csv`, `amounts` | lists, tables and money as they are written |
//! | `period`, `analytics` | questions to ClickHouse |
//! | [`edge_index`] | PostgreSQL → Redis |
//! | `passwords`, `housekeeping` | signing in; what has expired is thrown away |

mod amounts;
mod analytics;
mod auth;
pub mod config;
mod csv;
pub mod edge_index;
mod error;
mod extract;
mod housekeeping;
mod idempotency;
mod pages;
mod passwords;
mod period;
mod routes;
mod routing;
mod server;
mod state;
mod validate;

use std::time::Duration;

use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::Clock;
use tributary_shared::telemetry::{self, Readiness};
use tributary_shared::{engines, migrations, service};

use crate::config::{Cli, Command, Config, Engines};
use crate::edge_index::{EdgeError, EdgeIndex, READINESS_PART, Relay};
use crate::state::App;

pub use routes::openapi_json;

/// The part of the readiness that the migrations report.
const SCHEMAS: &str = "schemas";
/// First and longest pause between two attempts to bring the schemas up to date.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// Connections that a command needs.
const COMMAND_CONNECTIONS: u32 = 2;

/// Why the admin API could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("DATABASE_URL can't be used: {0}")]
    DatabaseUrl(sqlx::Error),
    #[error("REDIS_URL can't be used: {0}")]
    RedisUrl(redis::RedisError),
    #[error("can't listen on {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    #[error("can't wait for signals: {0}")]
    Signals(std::io::Error),
    #[error("OWNER_KEY must be set (try: openssl rand -hex 32)")]
    NoOwnerKey,
    #[error(
        "SEALING_KEYS must be set, as 1: and 64 hexadecimal digits (try: openssl rand -hex 32)"
    )]
    NoSealingKeys,
    #[error("the schemas could not be brought up to date: {0}")]
    Migrate(#[from] migrations::MigrationError),
    #[error("the edge index could not be written: {0}")]
    Sync(#[from] EdgeError),
}

/// Does what the command line asks for; serving ends with SIGTERM or SIGINT.
///
/// # Errors
/// When it can't.
pub async fn execute(cli: Cli) -> Result<(), Error> {
    match cli.command {
        Some(Command::Migrate) => migrate(&cli.engines).await,
        Some(Command::Sync) => sync(&cli.engines).await,
        None => Box::pin(serve(cli)).await,
    }
}

async fn migrate(engines: &Engines) -> Result<(), Error> {
    apply_schemas(&command_pool(engines)?, engines).await?;
    tracing::info!("the schemas are current");
    Ok(())
}

async fn sync(engines: &Engines) -> Result<(), Error> {
    let index = edge_index(engines, Clock::system())?;
    let report = edge_index::sync(&command_pool(engines)?, &index).await?;
    println!("{report}");
    Ok(())
}

fn edge_index(engines: &Engines, clock: Clock) -> Result<EdgeIndex, Error> {
    EdgeIndex::new(&engines.redis, &engines.clickhouse, clock).map_err(Error::RedisUrl)
}

fn command_pool(engines: &Engines) -> Result<PgPool, Error> {
    engines::postgres::pool(&engines.database, "admin-api", COMMAND_CONNECTIONS)
        .map_err(Error::DatabaseUrl)
}

async fn serve(cli: Cli) -> Result<(), Error> {
    let listen = async |address| {
        TcpListener::bind(address)
            .await
            .map_err(|error| Error::Listen(address, error))
    };
    let listener = listen(cli.api.listen).await?;
    let operations = listen(cli.api.metrics_listen).await?;
    let config = Config {
        engines: cli.engines,
        owner_key: cli.api.owner_key.ok_or(Error::NoOwnerKey)?,
        sealing_keys: cli.api.sealing_keys.ok_or(Error::NoSealingKeys)?,
        redirect_url: cli.api.redirect_url,
        demo_tenant: cli.api.demo_tenant,
        cookie_secure: cli.api.cookie_secure,
    };
    let shutdown = service::stop_signal().map_err(Error::Signals)?;
    tracing::info!(address = %cli.api.listen, "serving the API; try / and /docs");
    Box::pin(run(config, listener, operations, shutdown)).await
}

/// Serves the API on `listener`, and metrics and health on `operations`, until `shutdown`.
///
/// The engines may be away: the schemas are applied as soon as they answer, and until then the API
/// answers 503.
///
/// # Errors
/// When the configuration can't be used. Engines that are away are not an error.
pub async fn run(
    config: Config,
    listener: TcpListener,
    operations: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    telemetry::metrics(); // before the first count
    let app = App::new(&config, Clock::system(), shutdown.clone()).map_err(Error::DatabaseUrl)?;
    let index = edge_index(&config.engines, app.clock.clone())?;
    let readiness = Readiness::waiting_for(&[SCHEMAS, READINESS_PART]);
    let router = server::with_limits(routes::all(), app.clone());
    tokio::join!(
        server::serve(listener, router, shutdown.clone()),
        telemetry::serve_operations(operations, readiness.clone(), shutdown.clone()),
        background(app.clone(), index, &config.engines, readiness, shutdown),
    );
    app.postgres.close().await;
    Ok(())
}

/// Brings the schemas up to date, keeps the edge index current, throws away what expired.
async fn background(
    app: App,
    index: EdgeIndex,
    engines: &Engines,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let current = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = schemas(&app, engines, &readiness) => {}
        }
    };
    let relay = Relay::new(app.postgres.clone(), index, readiness.clone());
    let configured = async {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = app.wait_for_configuration() => {}
        }
        tokio::join!(
            relay.run(shutdown.clone()),
            housekeeping::run(&app, shutdown.clone())
        );
    };
    tokio::join!(current, configured);
}

/// Returns once all schemas are current. PostgreSQL's comes first, and all but analytics works with
/// it alone: an API that starts while ClickHouse or Kafka is away serves what it can.
async fn schemas(app: &App, engines: &Engines, readiness: &Readiness) {
    let mut pause = FIRST_RETRY;
    while let Err(error) = apply_schemas(&app.postgres, engines).await {
        tracing::warn!(%error, "the schemas are not current yet; trying again");
        readiness.not_ready(SCHEMAS, error.to_string());
        if migrations::postgres_is_current(&app.postgres).await.is_ok() {
            app.set_configuration_ready();
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_RETRY);
    }
    app.set_configuration_ready();
    readiness.ready(SCHEMAS);
    tracing::info!("the schemas are current");
}

async fn apply_schemas(
    postgres: &PgPool,
    engines: &Engines,
) -> Result<(), migrations::MigrationError> {
    let clickhouse = engines::clickhouse::client(&engines.clickhouse);
    let database = &engines.clickhouse.clickhouse_database;
    migrations::apply(postgres, &clickhouse, database, &engines.kafka).await
}
