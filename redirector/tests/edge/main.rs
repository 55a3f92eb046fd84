//! The edge over real sockets, Redis and Kafka.

#[cfg(test)]
mod postback;
#[cfg(test)]
mod redirect;
#[cfg(test)]
mod resolve;
#[cfg(test)]
mod support;
