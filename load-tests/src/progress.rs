//! How far something is: a bar on a terminal, otherwise a line every few seconds.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::grouped;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(3);

pub(crate) struct Progress {
    bar: ProgressBar,
    what: &'static str,
    total: usize,
    last_line: Option<Mutex<Instant>>,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let length = u64::try_from(total).unwrap_or(u64::MAX);
        let bar = if terminal {
            let style = ProgressStyle::with_template(
                "{msg:34} {bar:32} {human_pos} / {human_len}  {elapsed}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(length)
                .with_style(style)
                .with_message(what)
        } else {
            ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden())
        };
        Self {
            bar,
            what,
            total,
            last_line: (!terminal).then(|| Mutex::new(Instant::now())),
        }
    }

    pub(crate) fn one_more(&self) {
        self.bar.inc(1);
        self.line();
    }

    pub(crate) fn at(&self, done: usize) {
        self.bar
            .set_position(u64::try_from(done).unwrap_or(u64::MAX));
        self.line();
    }

    pub(crate) fn finish(self) {
        if self.last_line.is_some() {
            self.write();
        } else {
            self.bar.abandon();
        }
    }

    fn line(&self) {
        let Some(last) = &self.last_line else { return };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            self.write();
        }
    }

    fn write(&self) {
        let done = usize::try_from(self.bar.position()).unwrap_or(usize::MAX);
        eprintln!(
            "{}: {} of {}",
            self.what,
            grouped(done),
            grouped(self.total)
        );
    }
}
