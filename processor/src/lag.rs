//! How far a reader is behind what is written to its topic: as metrics all the time, and in the log while it
//! catches up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use rdkafka::statistics::Statistics;
use tokio::time::Instant;
use tributary_shared::clock::Clock;
use tributary_shared::events::Topic;
use tributary_shared::names;

/// Whoever is further behind catches up, and says so ...
const BEHIND: Duration = Duration::from_secs(30);
/// ... so often ...
const SAY_EVERY: Duration = Duration::from_secs(10);
/// ... until it is this close.
const CLOSE: Duration = Duration::from_secs(2);
/// How often the metric of the time is set.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How far behind a reader is. Told by the reader, and by Kafka's client.
#[derive(Clone)]
pub(crate) struct Lag(Arc<Mutex<State>>);

impl Lag {
    pub(crate) fn new(topic: Topic) -> Self {
        Self(Arc::new(Mutex::new(State::new(topic))))
    }

    /// A message was taken.
    pub(crate) fn took(&self, message: &BorrowedMessage<'_>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(catching_up) = &mut state.catching_up {
            catching_up.taken += 1;
        }
        if state.looked.elapsed() < LOOK_EVERY {
            return;
        }
        state.looked = Instant::now();
        if let Some(written_ms) = message.timestamp().to_millis() {
            let behind = Clock::system().now().timestamp_millis() - written_ms;
            state.is_behind(Duration::from_millis(behind.max(0).cast_unsigned()));
        }
    }

    /// The client's statistics: of the partitions that are ours.
    pub(crate) fn learn(&self, statistics: &Statistics) {
        let topics = statistics.topics.values();
        let partitions = topics.flat_map(|topic| topic.partitions.values());
        // -1: not ours, or not known yet.
        let known = partitions.map(|partition| partition.consumer_lag);
        let known = known.filter(|lag| *lag >= 0).map(i64::cast_unsigned);
        if let Some(waiting) = known.reduce(u64::saturating_add) {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.waits(waiting);
        }
    }
}

struct State {
    topic: &'static str,
    /// Messages that are not finished, as the client said last.
    waiting: u64,
    looked: Instant,
    catching_up: Option<CatchingUp>,
    messages: Gauge,
    seconds: Gauge,
}

struct CatchingUp {
    began: Instant,
    said: Instant,
    /// Messages since then.
    taken: u64,
}

impl State {
    fn new(topic: Topic) -> Self {
        let topic = topic.name();
        Self {
            topic,
            waiting: 0,
            looked: Instant::now(),
            catching_up: None,
            messages: metrics::gauge!(names::LAG_MESSAGES, "topic" => topic),
            seconds: metrics::gauge!(names::LAG_SECONDS, "topic" => topic),
        }
    }

    fn waits(&mut self, messages: u64) {
        self.waiting = messages;
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        self.messages.set(messages as f64);
        if messages == 0 {
            self.is_behind(Duration::ZERO); // however old the last message was
        }
    }

    fn is_behind(&mut self, behind: Duration) {
        self.seconds.set(behind.as_secs_f64());
        let now = Instant::now();
        match &mut self.catching_up {
            None if behind > BEHIND => {
                tracing::info!(
                    topic = self.topic,
                    behind = %text(behind),
                    "catching up"
                );
                self.catching_up = Some(CatchingUp {
                    began: now,
                    said: now,
                    taken: 0,
                });
            }
            Some(catching_up) if behind < CLOSE => {
                tracing::info!(
                    topic = self.topic,
                    took = %text(catching_up.began.elapsed()),
                    "caught up"
                );
                self.catching_up = None;
            }
            Some(catching_up) if catching_up.said.elapsed() >= SAY_EVERY => {
                let a_second = catching_up.taken / catching_up.said.elapsed().as_secs().max(1);
                tracing::info!(
                    topic = self.topic,
                    behind = %text(behind),
                    waiting = self.waiting,
                    a_second,
                    left = %text(Duration::from_secs(self.waiting / a_second.max(1))),
                    "catching up"
                );
                catching_up.said = now;
                catching_up.taken = 0;
            }
            None | Some(_) => {}
        }
    }
}

/// For a person: `1 h 2 min`, `3 min 20 s`, `20 s`.
fn text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_far_behind_catches_up_until_it_is_close() {
        let mut lag = State::new(Topic::Clicks);
        lag.is_behind(BEHIND);
        assert!(lag.catching_up.is_none());
        lag.is_behind(BEHIND + Duration::from_secs(1));
        assert!(lag.catching_up.is_some());
        lag.is_behind(CLOSE);
        assert!(lag.catching_up.is_some(), "not yet");
        let said = lag.catching_up.as_ref().unwrap().said - SAY_EVERY;
        lag.catching_up.as_mut().unwrap().said = said;
        lag.is_behind(CLOSE);
        assert!(lag.catching_up.as_ref().unwrap().said > said, "said again");
        lag.is_behind(CLOSE / 2);
        assert!(lag.catching_up.is_none());
        lag.is_behind(2 * BEHIND);
        lag.waits(1);
        assert!(lag.catching_up.is_some());
        lag.waits(0);
        assert!(lag.catching_up.is_none(), "nothing is left");
    }

    #[test]
    fn durations_are_for_people() {
        let texts = [0, 59, 61, 3599, 3720].map(|s| text(Duration::from_secs(s)));
        assert_eq!(
            texts,
            ["0 s", "59 s", "1 min 1 s", "59 min 59 s", "1 h 2 min"]
        );
    }
}
