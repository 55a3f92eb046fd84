//! Measures the way from Kafka into the facts and prints Markdown.

use std::process::ExitCode;

use clap::Parser as _;
use tributary_load_tests::facts::{Options, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Box::pin(run(&Options::parse())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("facts: {error}");
            ExitCode::FAILURE
        }
    }
}
