//! What can keep a replay from being done; each message says what to do next.

use std::path::PathBuf;

/// Why the replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {why}; start the system with `make run`, or name its run.json with --run", path.display())]
    RunFile { path: PathBuf, why: String },

    #[error("cannot {doing}: {source}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },

    #[error("{}: {why}", path.display())]
    Input { path: PathBuf, why: String },

    #[error("line {line} of the log is no request in Apache's combined format: {text}")]
    LogLine { line: usize, text: String },

    #[error("this User-Agent has no label; read it, and add it to load-tests/data/agents.tsv: {0}")]
    Unlabelled(String),

    #[error("a run id is 1 to 24 of a-z, 0-9 and -: it becomes part of order ids")]
    RunId,

    #[error(
        "the demo tenant has no active link: remove the data folder, so that the launcher makes one again"
    )]
    NoLinks,

    #[error("cannot {doing}: {source}; is the system still running?")]
    Http {
        doing: String,
        #[source]
        source: reqwest::Error,
    },

    #[error("cannot {doing}: the answer was {status}: {body}")]
    Answer {
        doing: String,
        status: u16,
        body: String,
    },

    #[error("cannot {doing}: {why}")]
    Unreadable { doing: String, why: String },

    #[error(
        "{name} is not up (its pid is not in run.json); drills need `tributary-local run` or `exec --services`"
    )]
    NotUp { name: &'static str },

    #[error("{name} did not come back within {seconds} s; see logs/{name}.log in the data folder")]
    NotBack { name: String, seconds: u64 },

    #[error("{name} did not end within {seconds} s; see logs/{name}.log in the data folder")]
    NotEnded { name: String, seconds: u64 },

    #[error("PostgreSQL, {doing}: {source}")]
    Postgres {
        doing: &'static str,
        #[source]
        source: sqlx::Error,
    },
}

impl Error {
    /// Names what was being done when the kernel refused.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// Names what was being done when a request failed.
    pub(crate) fn http(doing: impl Into<String>) -> impl FnOnce(reqwest::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Http { doing, source }
    }

    pub(crate) fn postgres(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Postgres { doing, source }
    }
}
