//! The redirector's cost beside nginx's, in one run on one machine with two CPUs.
//!
//! What is measured has CPU 0 alone; whoever asks has CPU 1, beside the engines (`benches/redirect.sh`). Each
//! click is resolved from a warm cache of many links (Zipf's law), given its token and cookies, and really
//! goes to Kafka. No processor reads it there, so nothing else works on the same clicks meanwhile. nginx
//! gives the same headers from its configuration, once without and once with an access log.
//!
//! | module | subject |
//! |---|---|
//! | `process` | children on given CPUs, their CPU time and memory |
//! | `servers` | how the redirector and nginx are started |
//! | `engines` | links written to Redis, clicks counted in Kafka |
//! | `figures` | least, median, most; ratios; Markdown |

mod engines;
pub(crate) mod figures;
pub(crate) mod process;
mod servers;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use clap::Parser;

use crate::Error;
use crate::load::{Live, Outcome, Pace, Requests, Settings, generate, outcome};
use crate::report::grouped;
use engines::{Arrivals, code, write_links};
use figures::{Unit, head, median, nanos, per, ratios, row};
use process::{cpu_time, memory_kib, stay_on};
use servers::{LOAD_CPU, Nginx, Redirector, SERVER_CPU, Shape};

const WARM_UP: Duration = Duration::from_secs(3);
/// A request that takes longer has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Which codes are drawn.
const SEED: u64 = 2015;
/// Latency is measured at this part of what the redirector can do, in per cent.
const OF_SATURATION: u64 = 70;
/// Codes that were never asked before are asked at this rate.
const MISSES_PER_SECOND: u32 = 1_000;
/// Attempts to bring all links into memory.
const SWEEPS: usize = 20;
/// More room than links, because a cache in parts does not fill evenly.
const ROOM_PERCENT: usize = 125;

/// The redirector that is compared: one runtime on a CPU of its own.
const ALONE: Shape = Shape {
    runtimes: 1,
    cpus: SERVER_CPU,
    sync: "never",
};
/// Two runtimes on two CPUs.
const PAIR: Shape = Shape {
    runtimes: 2,
    cpus: "0,1",
    ..ALONE
};
/// How often clicks are forced to the disk, to compare what it costs.
const SYNCS: [&str; 3] = ["never", "100ms", "reply"];

/// Measures the redirector beside nginx. Give it engines of its own: `benches/redirect.sh` does.
#[derive(Debug, Clone, Parser)]
#[command(name = "peers", version)]
pub struct Options {
    /// How often each server is measured; one after the other, so that each round is a comparison
    #[arg(long, env = "ROUNDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long each measurement takes, in seconds
    #[arg(long, env = "SECONDS_EACH", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Connections kept open
    #[arg(long, env = "CONNECTIONS", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Links that are asked for again and again
    #[arg(long, env = "WARM_LINKS", default_value_t = 100_000)]
    pub warm_links: usize,
    /// Links in Redis, and in memory for the measurement of memory
    #[arg(long, env = "LINKS", default_value_t = 1_000_000)]
    pub links: usize,
    /// Starts that are measured
    #[arg(long, env = "STARTS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub starts: u32,
}

/// One measurement of one server.
struct Measured {
    per_second: u64,
    /// CPU time a request, in nanoseconds.
    cpu: u64,
    /// Until a request was answered, in nanoseconds.
    p50: u64,
    p99: u64,
}

/// One figure of a measurement.
type Figure = fn(&Measured) -> u64;

/// What all measurements share.
struct Bench<'b> {
    options: &'b Options,
    work: &'b Path,
    arrivals: Arrivals,
    /// Clicks answered by redirectors so far.
    clicks: u64,
    /// Redirectors started so far.
    starts: u32,
}

/// Measures and prints Markdown.
///
/// # Errors
/// When something can't be started, a request is not answered by a 302, or a click does not arrive.
pub async fn run(options: &Options) -> Result<(), Error> {
    stay_on(LOAD_CPU)?;
    let work = tempfile::Builder::new()
        .prefix("tributary-peers-")
        // nginx's worker runs as another user.
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .map_err(Error::io("make a temporary folder"))?;
    eprintln!("peers: writing {} links to Redis", grouped(options.links));
    write_links(options.links)?;
    let mut bench = Bench {
        options,
        work: work.path(),
        arrivals: Arrivals::watch().await?,
        clicks: 0,
        starts: 0,
    };
    println!(
        "{}; {} connections; {} warm links; {} rounds of {} s.\n",
        machine(),
        options.connections,
        grouped(options.warm_links),
        options.rounds,
        options.seconds
    );
    let saturation = bench.beside_nginx()?;
    bench.runtimes()?;
    bench.syncs()?;
    bench.starts_and_memory()?;
    println!(
        "\n{} clicks were answered, {} arrived in Kafka; saturation {} a second.",
        grouped_u64(bench.clicks),
        grouped_u64(bench.arrivals.clicks),
        grouped_u64(saturation)
    );
    if bench.arrivals.clicks == bench.clicks {
        Ok(())
    } else {
        Err(Error::Unreadable {
            doing: "compare clicks answered with clicks in Kafka".to_owned(),
            why: "they differ".to_owned(),
        })
    }
}

impl Bench<'_> {
    /// CPU and rate beside nginx, latency at the same rate, and that of a cache miss. Returns the
    /// redirector's median rate.
    fn beside_nginx(&mut self) -> Result<u64, Error> {
        let redirector = self.warm(ALONE)?;
        let answer = redirector.answer(&code(0))?;
        self.clicks += 1;
        let plain = Nginx::start(&answer, false, self.work)?;
        let logging = Nginx::start(&answer, true, self.work)?;

        let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=self.options.rounds {
            eprintln!("peers: round {round} of {}", self.options.rounds);
            a.push(self.redirector(&redirector)?);
            b.push(self.nginx(&plain)?);
            c.push(self.nginx(&logging)?);
        }
        let cpu = |of: &[Measured]| of.iter().map(|m| m.cpu).collect::<Vec<u64>>();
        let rate = |of: &[Measured]| of.iter().map(|m| m.per_second).collect::<Vec<u64>>();
        head();
        row(
            "redirector, CPU µs a click, all threads",
            Unit::Nanos,
            &cpu(&a),
        );
        row(
            "nginx, no access log, CPU µs a request",
            Unit::Nanos,
            &cpu(&b),
        );
        row(
            "nginx, buffered access log, CPU µs a request",
            Unit::Nanos,
            &cpu(&c),
        );
        row(
            "**redirector to nginx without log, CPU, round by round**",
            Unit::Hundredths,
            &ratios(&cpu(&a), &cpu(&b)),
        );
        row(
            "**redirector to nginx with log, CPU, round by round**",
            Unit::Hundredths,
            &ratios(&cpu(&a), &cpu(&c)),
        );
        row("redirector, clicks/s", Unit::Count, &rate(&a));
        row("nginx, no access log, requests/s", Unit::Count, &rate(&b));
        row(
            "nginx, buffered access log, requests/s",
            Unit::Count,
            &rate(&c),
        );

        let saturation = median(&rate(&a));
        let target = u32::try_from(saturation * OF_SATURATION / 100).unwrap_or(u32::MAX);
        self.latencies(&redirector, &plain, target.max(1))?;
        self.misses(&redirector)?;
        Ok(saturation)
    }

    /// Open loop, one server after the other at the same rate.
    fn latencies(
        &mut self,
        redirector: &Redirector,
        nginx: &Nginx,
        per_second: u32,
    ) -> Result<(), Error> {
        let pace = Pace::Open { per_second };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=self.options.rounds.div_ceil(2) {
            eprintln!("peers: latency, round {round}, {per_second} a second");
            ours.push(self.ask(redirector.address, pace, self.seconds())?);
            self.arrived(&ours[ours.len() - 1])?;
            theirs.push(self.ask(nginx.address, pace, self.seconds())?);
        }
        println!(
            "\nLatency in µs at {} a second ({OF_SATURATION} % of the redirector's saturation), from when each request \
             was due:\n",
            grouped_u64(per_second.into())
        );
        head();
        for (name, of) in [("redirector", &ours), ("nginx, no access log", &theirs)] {
            for (percentile, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                let values: Vec<u64> = of.iter().map(|o| nanos(o.at(quantile))).collect();
                row(&format!("{name}, {percentile}"), Unit::Nanos, &values);
            }
        }
        Ok(())
    }

    /// Codes that this redirector was never asked for: each needs Redis.
    fn misses(&mut self, redirector: &Redirector) -> Result<(), Error> {
        let first = self.options.warm_links;
        let wanted = usize::try_from(self.options.seconds).unwrap_or(1) * 1_000;
        let last = (first + wanted).min(self.options.links);
        let requests = Requests::once((first..last).map(code).collect(), redirector.address);
        let pace = Pace::Open {
            per_second: MISSES_PER_SECOND,
        };
        let outcome = self.attempt(redirector.address, pace, None, &requests)?;
        self.arrived(&outcome)?;
        println!(
            "\nCache miss (each of {} codes for the first time, {} a second, Redis on the same machine; {} not answered by \
             a 302): p50 {}, p99 \
             **{}**, p99.9 {}.",
            grouped(last - first),
            grouped_u64(MISSES_PER_SECOND.into()),
            grouped_u64(outcome.sent - outcome.answered()),
            outcome::text(outcome.at(0.5)),
            outcome::text(outcome.at(0.99)),
            outcome::text(outcome.at(0.999)),
        );
        Ok(())
    }

    /// Two runtimes on two CPUs beside one on one.
    fn runtimes(&mut self) -> Result<(), Error> {
        let one = self.warm(ALONE)?;
        let two = self.warm(PAIR)?;
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for round in 1..=self.options.rounds.div_ceil(2) {
            eprintln!("peers: runtimes, round {round}");
            a.push(self.redirector(&one)?.cpu);
            b.push(self.redirector(&two)?.cpu);
        }
        println!("\nRuntimes (the second one shares CPU 1 with the load):\n");
        head();
        row("one runtime on CPU 0, CPU µs a click", Unit::Nanos, &a);
        row("two runtimes on both CPUs, CPU µs a click", Unit::Nanos, &b);
        row(
            "two to one, CPU, round by round",
            Unit::Hundredths,
            &ratios(&b, &a),
        );
        Ok(())
    }

    /// What forcing clicks to the disk costs, by `JOURNAL_SYNC`.
    fn syncs(&mut self) -> Result<(), Error> {
        let mut redirectors = Vec::new();
        for sync in SYNCS {
            redirectors.push(self.warm(Shape { sync, ..ALONE })?);
        }
        let mut rounds = SYNCS.map(|_| Vec::new());
        for round in 1..=self.options.rounds.div_ceil(2) {
            eprintln!("peers: JOURNAL_SYNC, round {round}");
            for (redirector, of) in redirectors.iter().zip(&mut rounds) {
                of.push(self.redirector(redirector)?);
            }
        }
        println!(
            "\nJOURNAL_SYNC, {} connections as fast as they are answered:\n",
            self.options.connections
        );
        head();
        let figures: [(&str, Unit, Figure); 4] = [
            ("CPU µs a click", Unit::Nanos, |m| m.cpu),
            ("clicks/s", Unit::Count, |m| m.per_second),
            ("µs until answered, p50", Unit::Nanos, |m| m.p50),
            ("µs until answered, p99", Unit::Nanos, |m| m.p99),
        ];
        for (sync, of) in SYNCS.iter().zip(&rounds) {
            for (what, unit, figure) in figures {
                let values: Vec<u64> = of.iter().map(figure).collect();
                row(&format!("{sync}, {what}"), unit, &values);
            }
        }
        Ok(())
    }

    /// From start to ready; and memory without and with all links.
    fn starts_and_memory(&mut self) -> Result<(), Error> {
        let links = self.options.links;
        let mut ready = Vec::new();
        for start in 1..=self.options.starts {
            eprintln!("peers: start {start}");
            let redirector = self.start(ALONE, links)?;
            ready.push(nanos(redirector.ready_after));
        }
        println!("\nFrom start to ready, in µs:\n");
        head();
        row("redirector", Unit::Nanos, &ready);

        eprintln!("peers: {} links into memory", grouped(links));
        let redirector = self.start(ALONE, links)?;
        let pid = redirector.process.pid();
        let before = (memory_kib(pid, "VmRSS")?, memory_kib(pid, "RssAnon")?);
        self.ask_all(&redirector, links)?;
        let after = (memory_kib(pid, "VmRSS")?, memory_kib(pid, "RssAnon")?);
        let mib = |kib: u64| grouped_u64(kib / 1024);
        let each =
            (after.1.saturating_sub(before.1)) * 1024 / u64::try_from(links).unwrap_or(1).max(1);
        println!(
            "\nMemory: {} MiB resident ({} MiB anonymous) after the start, **{} MiB** ({} MiB) with {} links: {each} \
             bytes a link.",
            mib(before.0),
            mib(before.1),
            mib(after.0),
            mib(after.1),
            grouped(links)
        );
        Ok(())
    }

    fn start(&mut self, shape: Shape, links: usize) -> Result<Redirector, Error> {
        self.starts += 1;
        let cached_links = links * ROOM_PERCENT / 100;
        Redirector::start(shape, cached_links, self.work, self.starts)
    }

    /// A redirector that has every warm link in memory and has worked for a while.
    fn warm(&mut self, shape: Shape) -> Result<Redirector, Error> {
        let redirector = self.start(shape, self.options.warm_links)?;
        self.ask_all(&redirector, self.options.warm_links)?;
        let outcome = self.ask(redirector.address, Pace::Closed, WARM_UP)?;
        self.arrived(&outcome)?;
        Ok(redirector)
    }

    /// Brings the first `links` links into memory. A redirector does not wait long for Redis, so on a
    /// busy machine one attempt may not be enough.
    fn ask_all(&mut self, redirector: &Redirector, links: usize) -> Result<(), Error> {
        let requests = Requests::once((0..links).map(code).collect(), redirector.address);
        for _ in 0..SWEEPS {
            let outcome = self.attempt(redirector.address, Pace::Closed, None, &requests)?;
            self.arrived(&outcome)?;
            if outcome.is_clean() {
                return Ok(());
            }
        }
        Err(Error::Unreadable {
            doing: "bring the links into the redirector's memory".to_owned(),
            why: format!("after {SWEEPS} attempts some are not answered by a 302"),
        })
    }

    /// Saturates a redirector. Its CPU time counts until Kafka has every click.
    fn redirector(&mut self, redirector: &Redirector) -> Result<Measured, Error> {
        let pid = redirector.process.pid();
        let before = cpu_time(pid)?;
        let outcome = self.ask(redirector.address, Pace::Closed, self.seconds())?;
        self.arrived(&outcome)?;
        Ok(measured(&outcome, cpu_time(pid)?.saturating_sub(before)))
    }

    fn nginx(&self, nginx: &Nginx) -> Result<Measured, Error> {
        let before = cpu_time(nginx.worker)?;
        let outcome = self.ask(nginx.address, Pace::Closed, self.seconds())?;
        Ok(measured(
            &outcome,
            cpu_time(nginx.worker)?.saturating_sub(before),
        ))
    }

    fn seconds(&self) -> Duration {
        Duration::from_secs(self.options.seconds)
    }

    /// Warm links by Zipf's law.
    fn ask(&self, address: SocketAddr, pace: Pace, duration: Duration) -> Result<Outcome, Error> {
        let codes = (0..self.options.warm_links).map(code).collect();
        let requests = Requests::zipf(codes, address, "", SEED);
        self.generate(address, pace, Some(duration), &requests)
    }

    fn attempt(
        &self,
        address: SocketAddr,
        pace: Pace,
        duration: Option<Duration>,
        requests: &Requests,
    ) -> Result<Outcome, Error> {
        let settings = Settings {
            address,
            connections: self.options.connections,
            pace,
            duration,
            answer_within: ANSWER_WITHIN,
            keep_ids: false,
        };
        generate(&settings, requests, &Live::default())
    }

    /// An attempt whose every request was answered by a 302.
    fn generate(
        &self,
        address: SocketAddr,
        pace: Pace,
        duration: Option<Duration>,
        requests: &Requests,
    ) -> Result<Outcome, Error> {
        let outcome = self.attempt(address, pace, duration, requests)?;
        if outcome.is_clean() {
            Ok(outcome)
        } else {
            Err(Error::Unreadable {
                doing: format!("measure {address}"),
                why: format!(
                    "not every request was answered by a 302:\n{}",
                    outcome.table()
                ),
            })
        }
    }

    /// Waits until the clicks of a measurement are in Kafka, so that what it left to be done does not run
    /// beside the next.
    fn arrived(&mut self, outcome: &Outcome) -> Result<(), Error> {
        self.clicks += outcome.answered();
        self.arrivals.until(self.clicks)
    }
}

fn measured(outcome: &Outcome, cpu: Duration) -> Measured {
    Measured {
        per_second: outcome.per_second(),
        cpu: per(cpu, outcome.answered()),
        p50: nanos(outcome.at(0.5)),
        p99: nanos(outcome.at(0.99)),
    }
}

/// The processor's name and how many there are.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let names: Vec<&str> = names.map(|(_, name)| name).collect();
    let name = names.first().copied().unwrap_or("unknown CPU");
    format!("{name}, {} CPUs", names.len())
}

fn grouped_u64(n: u64) -> String {
    grouped(usize::try_from(n).unwrap_or(usize::MAX))
}
