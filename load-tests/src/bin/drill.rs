//! Kills and withholds processes under load and checks that no click is lost or counted twice.

use std::process::ExitCode;

use clap::Parser as _;
use tributary_load_tests::drill::{Options, run};

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run(Options::parse())).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("drill: {error}");
            ExitCode::FAILURE
        }
    }
}
