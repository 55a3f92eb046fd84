//! The edge over real sockets, Redis and Kafka.

#[cfg(test)]
mod events;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod pixel;
#[cfg(test)]
mod postback;
#[cfg(test)]
mod postback_log;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod redirect;
#[cfg(test)]
mod resolve;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod snippet;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod webhooks;
