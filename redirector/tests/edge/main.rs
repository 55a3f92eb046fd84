//! The edge over real sockets, Redis and Kafka.

#[cfg(test)]
mod journal;
mod postback;
#[cfg(test)]
mod redirect;
#[cfg(test)]
mod support;
