//! The replay's command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Parser;

use crate::Error;

/// Clicks through 10,000 real requests, posts orders, and checks what the system made of them.
#[derive(Debug, Clone, Parser)]
#[command(name = "replay", version)]
pub struct Options {
    /// The running system's addresses, as the launcher wrote them
    #[arg(long, env = "TRIBUTARY_RUN_JSON", default_value = "data/run.json")]
    pub run: PathBuf,
    /// Another log than the built-in one: Apache combined format, plain or .gz
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// Another list of labelled agents than the built-in one
    #[arg(long)]
    pub agents: Option<PathBuf>,
    /// Only the first so many requests
    #[arg(long)]
    pub limit: Option<usize>,
    /// For which part of the clicks an order is posted
    #[arg(long, default_value = "3%")]
    pub orders: Share,
    /// Which clicks those are and what they cost: the same seed, the same orders
    #[arg(long, default_value_t = 2015)]
    pub seed: u64,
    /// What this run's orders are called; by default the time
    #[arg(long)]
    pub run_id: Option<String>,
    /// Connections kept open to the redirector
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// How long to wait for everything to be stored, in seconds
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
}

impl Options {
    pub(crate) fn run_id(&self, now: DateTime<Utc>) -> Result<String, Error> {
        let id = self
            .run_id
            .clone()
            .unwrap_or_else(|| format!("r{}", now.format("%y%m%d-%H%M%S-%3f")));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=24).contains(&id.len()) && id.bytes().all(plain) {
            Ok(id)
        } else {
            Err(Error::RunId)
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// A part of a whole, in hundredths of a per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// So much of `whole`, rounded down.
    pub(crate) fn of(self, whole: usize) -> usize {
        let whole = u64::try_from(whole).unwrap_or(u64::MAX);
        usize::try_from(whole.saturating_mul(self.0) / 10_000).unwrap_or(usize::MAX)
    }
}

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write a share as 3% or 0.25%, at most 100%";
        let number = text.strip_suffix('%').ok_or(FORM)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        if part.len() > 2 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return Err(FORM);
        }
        let whole: u64 = whole.parse().map_err(|_| FORM)?;
        let part: u64 = format!("{part:0<2}").parse().map_err(|_| FORM)?;
        if whole > 100 || whole * 100 + part > 10_000 {
            return Err(FORM);
        }
        Ok(Self(whole * 100 + part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage() {
        let of = |share: &str, whole| share.parse::<Share>().unwrap().of(whole);
        assert_eq!(of("3%", 10_000), 300);
        assert_eq!(of("0.25%", 10_000), 25);
        assert_eq!(of("2.5%", 1_000), 25);
        assert_eq!(of("100%", 7), 7);
        for text in ["3", "-1%", "101%", "100.5%", "1.234%", "x%", "%", "1.-1%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_run_has_a_plain_name() {
        let named = |id: Option<&str>| {
            let mut options = Options::parse_from(["replay"]);
            options.run_id = id.map(str::to_owned);
            options.run_id(DateTime::from_timestamp_millis(1_795_000_000_123).unwrap())
        };
        assert_eq!(named(None).unwrap(), "r261118-110640-123");
        assert_eq!(named(Some("mine-1")).unwrap(), "mine-1");
        for id in ["", "a b", "it's", "UPPER", "much-too-long-for-an-order"] {
            assert!(named(Some(id)).is_err(), "{id}");
        }
    }
}
