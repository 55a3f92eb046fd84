//! The signals by which a person or a service manager stops the launcher.

use std::time::Duration;

use futures::FutureExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use crate::Error;

/// Within this time a second signal counts as the first's echo.
const ECHO: Duration = Duration::from_millis(300);

/// SIGINT, SIGTERM and SIGHUP, from [`Signals::listen`] on.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal was closed.
    hang_up: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, Error> {
        let stream = |kind| signal(kind).map_err(Error::io("listen for signals"));
        Ok(Self {
            interrupt: stream(SignalKind::interrupt())?,
            terminate: stream(SignalKind::terminate())?,
            hang_up: stream(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    /// The next signal that is not an echo of the one just received: a press of Ctrl-C under `make`
    /// or `timeout` arrives from the terminal and from them.
    pub(crate) async fn next_press(&mut self) {
        sleep(ECHO).await;
        while self.next().now_or_never().is_some() {}
        self.next().await;
    }
}
