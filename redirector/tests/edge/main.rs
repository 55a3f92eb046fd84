//! The edge over real sockets, Redis and Kafka.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod postback;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod redirect;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls;
