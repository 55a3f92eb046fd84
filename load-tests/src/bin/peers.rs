//! Measures the redirector beside nginx and prints Markdown.

use std::process::ExitCode;

use clap::Parser as _;
use tributary_load_tests::peers::{Options, run};

// One thread, which stays on one CPU and so do what it starts, unless told otherwise.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Box::pin(run(&Options::parse())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}
