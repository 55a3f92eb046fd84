//! What can keep the launcher from doing its work; each message says what to do next.

use std::path::PathBuf;

/// Why the launcher stopped or could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that `make setup` or `make build` brings is not there.
    #[error("{what} is missing; run `{bring_it}`")]
    Missing {
        what: String,
        bring_it: &'static str,
    },

    /// A file or a process could not be handled.
    #[error("cannot {doing}: {source}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },

    /// Another launcher holds the data folder.
    #[error(
        "Tributary runs already with the data folder {} (pid {pid}); stop it, or choose another with DATA=<folder>",
        data.display()
    )]
    Running { data: PathBuf, pid: String },

    /// A running launcher was found, but not with what the command needs.
    #[error("the launcher that runs with {} (pid {pid}) does not serve all that is needed: {missing}; stop it first", data.display())]
    RunningWithout {
        data: PathBuf,
        pid: String,
        missing: String,
    },

    /// A port that was asked for by number belongs to somebody else.
    #[error("port {port} is taken; free it, or set {variable} to another")]
    PortTaken { port: u16, variable: &'static str },

    /// No free port in the launcher's range.
    #[error("no free port between {from} and {to}; set the ports yourself (see --help)")]
    NoPort { from: u16, to: u16 },

    /// A child never became healthy.
    #[error("{name} did not start: {why}\n{tail}the whole log: {}", log.display())]
    Start {
        name: &'static str,
        why: String,
        /// The last lines of the log, each ended by a newline and indented.
        tail: String,
        log: PathBuf,
    },

    /// A helper program (`initdb`, Kafka's format tool) failed.
    #[error("{program} failed ({status}):\n{output}")]
    Helper {
        program: String,
        status: String,
        output: String,
    },

    /// A file in the data folder can't be understood.
    #[error("{} is damaged ({why}); restore it, or remove the whole data folder to start afresh", file.display())]
    Damaged { file: PathBuf, why: String },

    /// The demo tenant could not be made.
    #[error("cannot set up the demo: {0}; see the logs of admin-api and redirector")]
    Demo(String),
}

impl Error {
    /// For `map_err`: `Error::io("read the log")`.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
