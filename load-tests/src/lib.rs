//! Sends clicks to a running system and checks, by counts of its own, what became of them.
//!
//! | program | what it does | start reading at |
//! |---|---|---|
//! | `replay` | 10,000 real requests, orders for some of them, every cent compared | [`run`] |
//! | `load` | clicks at a constant rate, or as many as are answered | [`load`] |
//! | `drill` | kills and withholds processes under load; no click may be lost or counted twice | [`drill`] |
//! | `facts` | the cost from Kafka into ClickHouse beside inserts from memory | [`facts`] |
//! | `money` | conversions a second of the processor's CPU; every cent audited while things are killed | [`money`] |
//! | `peers` | the redirector's cost beside nginx's | [`peers`] |
//!
//! The replay: it replays 10,000 real requests as clicks, posts orders for some of them, and then checks with its
//! own count that each click is stored once as it was sent and that each commission is exact.
//!
//! | module | subject |
//! |---|---|
//! | `options`, `run_file` | what to do; where the running system is |
//! | `access_log`, `agents` | the recorded requests; which of them people made |
//! | `plan`, `orders`, `dice` | what will be sent, the same for the same seed |
//! | `browser`, `shop` | sending: shoppers who click, a merchant who posts orders |
//! | `api`, `stores` | reading: the admin API; ClickHouse and PostgreSQL themselves |
//! | `reckon` | money in whole minor units, sharing nothing with the product |
//! | `check`, `report`, `progress` | the comparison, and what a person sees |
//! | `target`, `oracle`, `rollups` | of load and drills: whom to ask; click ids answered against click ids stored; rollups against clicks |

mod access_log;
mod agents;
mod api;
mod browser;
mod check;
mod dice;
pub mod drill;
mod error;
pub mod facts;
pub mod load;
pub mod money;
mod options;
mod oracle;
mod orders;
pub mod peers;
mod plan;
mod progress;
mod reckon;
mod report;
mod rollups;
mod run_file;
mod shop;
mod stores;
mod target;

pub use error::Error;
pub use options::Options;
pub use target::Target;

use tributary_shared::clock::Clock;

use api::Api;
use run_file::RunFile;
use stores::{ClickHouse, Ledger};

/// Replays and checks. True when everything is as it should be.
///
/// # Errors
/// What kept the replay from being done at all; a difference that was found is no error.
pub async fn run(options: Options) -> Result<bool, Error> {
    let clock = Clock::system();
    let run = options.run_id(clock.now())?;
    let system = RunFile::read(&options.run)?;
    let labels = agents::Labels::read(options.agents.as_deref())?;
    let mut requests = access_log::read(options.log.as_deref())?;
    requests.truncate(options.limit.unwrap_or(usize::MAX));

    let api = Api::new(&system)?;
    let clickhouse = ClickHouse::new(&system)?;
    let ledger = Ledger::connect(&system).await?;
    let program = api.links().await?;
    let plan = plan::plan(requests, &program, &labels)?;
    let orders = orders::plan(&plan, options.seed, options.orders, &run);
    println!(
        "Replay {run}: {} clicks by {} visitors over {} links, {} orders, {} postbacks to be refused.",
        report::grouped(plan.clicks.len()),
        report::grouped(plan.visitors),
        program.links.len(),
        orders.good.len(),
        orders::BAD.len(),
    );

    let since = clock.now();
    let before = api.balances(&program).await?;
    let clicked = browser::click_all(
        &system.services.redirector.url,
        &plan,
        &run,
        options.connections,
    )
    .await?;
    let posted = shop::post_all(&system, &orders, &clicked).await?;

    let sent = check::Sent {
        run: &run,
        since,
        program: &program,
        plan: &plan,
        clicked: &clicked,
        orders: &orders,
        posted: &posted,
    };
    check::wait_until_stored(&sent, &clickhouse, &ledger, options.timeout()).await?;
    let found = check::Found {
        clicks: clickhouse.clicks(&clicked.ids(), &run, since).await?,
        facts: clickhouse.orders(&run).await?,
        ledger: ledger.orders(&run).await?,
        api: api.orders(since).await?,
        before,
        after: api.balances(&program).await?,
    };
    let verdict = check::compare(&sent, &found);
    report::print(&sent, &verdict);
    Ok(verdict.holds())
}
