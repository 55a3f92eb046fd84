//! Benchmarks: `cargo bench -p tributary-benches` for the pieces of one click, `redirect.sh` for
//! the whole redirect beside nginx. README.md has the results.
