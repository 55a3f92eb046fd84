//! Replays real requests through a running system and checks what became of them.

use std::process::ExitCode;

use clap::Parser as _;
use tributary_load_tests::{Options, run};

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run(Options::parse())).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("replay: {error}");
            ExitCode::FAILURE
        }
    }
}
