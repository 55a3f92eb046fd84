//! Clients of the four engines, with the settings that this product depends on.

pub mod clickhouse;
pub mod kafka;
pub mod postgres;
pub mod redis;
