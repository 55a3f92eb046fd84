//! Money, measured and audited: orders by the thousand, made from a seed, of every kind of program that the auditor can
//! add up by himself.
//!
//! | module | subject |
//! |---|---|
//! | `market` | programs, affiliates and links, as they are made in PostgreSQL |
//! | `story` | what happens to each order: the same for the same seed |
//! | `auditor` | what everybody must own in the end, by its own arithmetic |
//! | `messages` | clicks and reports as they stand in Kafka |
//! | `scene` | what both of the following begin with |
//! | `books` | what the ledger and the facts say |
//! | [`speed`] | conversions a second of the processor's CPU |
//! | [`audit`] | the simulation: everything twice, late and killed, and every cent compared |

mod audit;
mod auditor;
mod books;
mod market;
mod messages;
mod scene;
mod speed;
mod story;

use clap::{Parser, Subcommand};

use crate::Error;

/// What is done.
#[derive(Debug, Parser)]
#[command(name = "money", version)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Conversions a second of processor CPU: with engines alone
    Speed(speed::Options),
    /// Kills processor and PostgreSQL while orders come, and compares every cent: with engines alone
    Audit(audit::Options),
}

/// Measures or audits, and prints what was found. True when everything is as it should be.
///
/// # Errors
/// What kept it from being done; a difference that was found is no error.
pub async fn run(options: &Options) -> Result<bool, Error> {
    match &options.what {
        What::Speed(options) => Box::pin(speed::run(options)).await.map(|()| true),
        What::Audit(options) => Box::pin(audit::run(options)).await,
    }
}
