//! From Kafka to facts and money, on real engines.

#[cfg(test)]
mod audit;
#[cfg(test)]
mod clicks;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod conversions;
#[cfg(test)]
mod dead_letters;
#[cfg(test)]
mod enriched;
#[cfg(test)]
mod facts;
#[cfg(test)]
mod judging;
#[cfg(test)]
mod money;
#[cfg(test)]
mod once;
#[cfg(test)]
mod payouts;
#[cfg(test)]
mod postbacks;
#[cfg(test)]
mod support;
#[cfg(test)]
mod webhooks;
#[cfg(test)]
mod writers;
