//! What the facts cost and give: three measurements.
//!
//! | module | what |
//! |---|---|
//! | [`transport`] | from Kafka into ClickHouse, beside the same rows straight from memory |
//! | [`other_ways`] | the bare transport of the same rows by ClickHouse's Kafka engine and chafka, in the same rounds |
//! | [`fresh`] | from a click to its being visible |
//! | [`questions`] | the dashboard's questions, over up to a hundred million clicks |

mod fresh;
mod generator;
mod other_ways;
mod questions;
pub(crate) mod transport;

use clap::{Parser, Subcommand};

use crate::Error;

/// What is measured.
#[derive(Debug, Parser)]
#[command(name = "facts", version)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// From Kafka into ClickHouse, beside the same rows from memory: with engines alone
    Transport(transport::Options),
    /// From a click to its being visible: with the whole system
    Fresh(fresh::Options),
    /// The dashboard's questions over many clicks: with the whole system
    Questions(questions::Options),
}

/// Measures and prints Markdown.
///
/// # Errors
/// What kept it from being measured.
pub async fn run(options: &Options) -> Result<(), Error> {
    match &options.what {
        What::Transport(options) => transport::run(options).await,
        What::Fresh(options) => fresh::run(options).await,
        What::Questions(options) => questions::run(options).await,
    }
}
