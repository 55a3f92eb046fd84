//! What is done about an engine that is away: the same again, with growing pauses, until it answers
//! or the process is told to stop. Nothing is given up, so nothing is lost; Kafka keeps the rest.

use std::fmt::Display;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tributary_shared::names;

/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The process is stopping, and what was tried is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

/// Pauses between the attempts at one thing.
pub(crate) struct Retry<'s> {
    engine: &'static str,
    shutdown: &'s CancellationToken,
    pause: Duration,
}

impl<'s> Retry<'s> {
    pub(crate) fn new(engine: &'static str, shutdown: &'s CancellationToken) -> Self {
        Self {
            engine,
            shutdown,
            pause: FIRST_PAUSE,
        }
    }

    /// Waits after a failed attempt; tells when there should be no further one.
    pub(crate) async fn after(&mut self, error: impl Display) -> Result<(), Stopped> {
        let Self { engine, pause, .. } = self;
        metrics::counter!(names::RETRIES, "engine" => *engine).increment(1);
        tracing::warn!(engine, %error, ?pause, "trying again");
        tokio::select! {
            () = self.shutdown.cancelled() => return Err(Stopped),
            () = tokio::time::sleep(self.pause) => {}
        }
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(())
    }
}

/// Runs `attempt` until it succeeds. Tried at least once, even while stopping.
pub(crate) async fn until_done<T, E: Display, F: Future<Output = Result<T, E>>>(
    engine: &'static str,
    shutdown: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Stopped> {
    let mut retry = Retry::new(engine, shutdown);
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => retry.after(error).await?,
        }
    }
}
