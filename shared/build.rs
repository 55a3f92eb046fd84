//! Compiles the event schemas. protox is a protobuf compiler in Rust: no `protoc` needs installing.

use std::error::Error;

const SCHEMAS: [&str; 5] = [
    "proto/clicks.proto",
    "proto/conversions.proto",
    "proto/ledger.proto",
    "proto/links.proto",
    "proto/postbacks.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=migrations");
    let schemas = protox::compile(SCHEMAS, ["proto"])?;
    prost_build::Config::new().compile_fds(schemas)?;
    Ok(())
}
