//! What a measurement and a simulation begin with: schemas, a tenant with its market, every order's clicks in Kafka, and a
//! processor of their own, which can be killed and started again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tributary_shared::clock::Clock;
use tributary_shared::engines;
use tributary_shared::migrations;

use super::auditor::Auditor;
use super::books::{Addresses, Books};
use super::market::Market;
use super::messages::Sender;
use super::story::{Course, Order};
use crate::Error;
use crate::peers::process::{Process, free_address, get, status};

const KEYS: &str = "1:abababababababababababababababababababababababababababababababab";
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long storing the clicks may take, and a processor until it is ready: Kafka gives the partitions of one that was killed
/// to others after 6 s.
const WITHIN: Duration = Duration::from_secs(300);
/// Orders lie so far in the past that all reports do, and what follows from the first settlement is due at once.
const BEGAN_BEFORE_US: i64 = 20 * 86_400 * 1_000_000;

/// Makes what the product keeps its data in.
pub(super) async fn make_schemas() -> Result<(), Error> {
    let addresses = Addresses::from_environment();
    let pool = engines::postgres::pool(&addresses.database, "money", 2)
        .map_err(Error::postgres("using DATABASE_URL"))?;
    let facts = engines::clickhouse::client(&addresses.clickhouse);
    let database = &addresses.clickhouse.clickhouse_database;
    migrations::apply(&pool, &facts, database, &addresses.kafka)
        .await
        .map_err(|error| Error::Unreadable {
            doing: "make the schemas".to_owned(),
            why: error.to_string(),
        })
}

/// Orders of a seed, and where they happen.
pub(super) struct Scene {
    pub(super) books: Books,
    pub(super) market: Market,
    pub(super) course: Course,
    /// Each with the click that the shop names.
    pub(super) orders: Vec<(Order, String)>,
    pub(super) sender: Sender,
}

impl Scene {
    /// Makes tenant and market, and sends the clicks of all orders.
    pub(super) async fn set(
        what: &str,
        seed: u64,
        conversions: usize,
        eventful: u64,
    ) -> Result<Self, Error> {
        let began = Clock::system().now();
        let run = format!("{what}-{}", began.timestamp_micros());
        let books = Books::open(Addresses::from_environment(), &run)?;
        let tenant: i64 =
            sqlx::query_scalar("INSERT INTO tenants (slug, name) VALUES ($1, $1) RETURNING id")
                .bind(&run)
                .fetch_one(&books.pool)
                .await
                .map_err(Error::postgres("making a tenant"))?;
        let market = Market::make(&books.pool, tenant, &run, conversions).await?;
        let course = Course {
            seed,
            begin_us: began.timestamp_micros() - BEGAN_BEFORE_US,
            eventful,
        };
        let keys = KEYS.parse().map_err(|_| Error::Unreadable {
            doing: "read the keys".to_owned(),
            why: KEYS.to_owned(),
        })?;
        let mut sender = Sender::new(&books.addresses().kafka, keys, &run)?;
        let mut orders = Vec::with_capacity(conversions);
        for nth in 0..conversions {
            let order = course.order(&market, nth);
            let click = sender.click(&market, &order)?;
            orders.push((order, click));
        }
        sender.flush()?;
        Ok(Self {
            books,
            market,
            course,
            orders,
            sender,
        })
    }

    /// What the auditor says of all of it.
    pub(super) fn audited(&self) -> Auditor<'_> {
        let mut auditor = Auditor::new(&self.market);
        for (order, _) in &self.orders {
            auditor.take(order);
        }
        auditor
    }

    pub(super) fn programs(&self) -> Vec<i64> {
        self.market
            .programs
            .iter()
            .map(|program| program.id)
            .collect()
    }

    /// Orders that are shared out need all clicks at their first look.
    pub(super) async fn clicks_are_stored(&self) -> Result<(), Error> {
        let question = format!(
            "SELECT count() FROM clicks WHERE tenant_id = {}",
            self.market.tenant
        );
        let began = Instant::now();
        while self.books.number(&question).await? < self.sender.clicks {
            if began.elapsed() > WITHIN {
                return Err(Error::Unreadable {
                    doing: "store the clicks".to_owned(),
                    why: format!("they are not after {} s", WITHIN.as_secs()),
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// A processor that ends with this value.
pub(super) struct Processor {
    program: PathBuf,
    process: Process,
}

impl Processor {
    /// Starts one, and waits until it is ready.
    pub(super) async fn start(program: &Path) -> Result<Self, Error> {
        let operations = free_address()?;
        let environment = [
            ("CLICK_TOKEN_KEYS", KEYS.to_owned()),
            ("SEALING_KEYS", KEYS.to_owned()),
            ("METRICS_LISTEN", operations.to_string()),
            ("RUST_LOG", "error".to_owned()),
        ];
        let process = Process::start(program, "0,1", &[], &environment)?;
        let began = Instant::now();
        while !get(operations, "/readyz", &[]).is_ok_and(|answer| status(&answer) == Some(200)) {
            if began.elapsed() > WITHIN {
                return Err(Error::NotBack {
                    name: "the processor".to_owned(),
                    seconds: WITHIN.as_secs(),
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(Self {
            program: program.to_owned(),
            process,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `kill -9`, and another one in its place, which is waited for.
    pub(super) async fn kill_and_start(self) -> Result<Self, Error> {
        let Self { program, process } = self;
        // The id is the child's own until it was waited for.
        if let Ok(pid) = i32::try_from(process.pid()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        drop(process);
        Self::start(&program).await
    }
}
