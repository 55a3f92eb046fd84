//! Runs Tributary on one machine: real engines and the services as supervised child processes.
//!
//! | module | subject |
//! |---|---|
//! | [`cli`] | the command line: `run`, `engines`, `exec` |
//! | `launch` | one launcher's life: start, serve, stop |
//! | `exec` | a command beside a running system |
//! | `system` | everything that runs, and the order of its stop |
//! | `supervisor` | one child: spawn, await health, restart with back-off, stop |
//! | [`engines`] | Redis, PostgreSQL, Kafka, ClickHouse; also the library's door for tests |
//! | `services` | redirector, processor, admin-api |
//! | `demo` | the demo tenant, made once through the admin API |
//! | `run_file`, `secrets`, `data_dir` | what stands in the data folder |
//! | `ports`, `console`, `artifacts` | free ports; what the person sees; where the engines' files are |
//! | [`testing`] | one engine set for a whole test process |
//!
//! Two promises hold throughout. A child never outlives the launcher, whatever ends it: the kernel
//! tells each child when the thread that started it dies, so all of them are started by one thread
//! that lives as long as the launcher. And what answers on a port is the child that was started:
//! each engine's probe asks for something that only this engine knows.

mod artifacts;
pub mod cli;
mod console;
mod data_dir;
mod demo;
pub mod engines;
mod error;
mod exec;
mod http;
mod launch;
mod ports;
mod run_file;
mod secrets;
mod services;
mod signals;
mod supervisor;
mod system;
pub mod testing;

pub use error::Error;
