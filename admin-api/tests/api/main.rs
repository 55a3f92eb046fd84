//! The admin API over real sockets and real engines. All tests are one program, so that they share
//! one set of engines; each has databases and prefixes of its own.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do"
)]

mod analytics;
mod auth;
mod customers;
mod edge_index;
mod edge_settings;
mod engines_away;
mod errors;
mod exports;
mod harness;
mod home;
mod idempotency;
mod isolation;
mod money;
mod openapi;
mod orders;
mod payout_files;
mod payouts;
mod postbacks;
mod privacy;
mod review;
mod rules;
mod sources;
mod statements;
