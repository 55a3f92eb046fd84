//! Vocabulary and contracts that the services share.
//!
//! What a thing is called and how it is written down stands here once: ids, the click token, money,
//! the events on Kafka, a link as the edge reads it, who is a bot, the clock, configuration,
//! telemetry, the clients of the four engines and the schemas they must have.

pub mod bots;
pub mod click_token;
pub mod clock;
pub mod commission;
pub mod config;
pub mod countries;
pub mod customers;
pub mod device;
pub mod engines;
pub mod events;
pub mod fraud;
pub mod geo;
pub mod ids;
pub mod links;
pub mod migrations;
pub mod money;
pub mod names;
pub mod orders;
pub mod payouts;
pub mod reports;
pub mod sealing;
pub mod secrets;
pub mod service;
pub mod signals;
pub mod telemetry;
pub mod template;
#[cfg(feature = "testing")]
pub mod testing;
