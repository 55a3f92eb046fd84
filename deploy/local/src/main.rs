//! The launcher's binary: reads the command line and calls the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    match tributary_local::cli::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tributary-local: {error}");
            ExitCode::FAILURE
        }
    }
}
