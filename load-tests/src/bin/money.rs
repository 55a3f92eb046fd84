//! Measures how fast money is settled, and audits it while things are killed.

use std::process::ExitCode;

use clap::Parser as _;
use tributary_load_tests::money::{Options, run};

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run(&Options::parse())).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("money: {error}");
            ExitCode::FAILURE
        }
    }
}
