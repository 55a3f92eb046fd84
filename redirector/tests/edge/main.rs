//! The edge over real sockets, Redis and Kafka.

#[cfg(test)]
mod journal;
mod events;
#[cfg(test)]
mod pixel;
#[cfg(test)]
mod postback;
#[cfg(test)]
mod redirect;
#[cfg(test)]
mod snippet;
#[cfg(test)]
mod support;
