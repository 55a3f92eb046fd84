//! Load at a constant rate, or as much as a server takes: many connections, one thread.
//!
//! - **Open loop**: when each request should be sent is fixed beforehand, and its latency counts from
//!   then. A server that stalls is charged for every request that had to wait meanwhile.
//! - **Closed loop**: each connection asks again as soon as it was answered.
//!
//! A connection that is refused or lost is opened again and the load goes on. A request whose answer did
//! not arrive whole is not asked again: it is counted as `cut`, and nobody knows what became of it.
//!
//! | module | subject |
//! |---|---|
//! | [`request`] | what is asked: codes in Zipf's proportions, or each once |
//! | `response` | reading an answer, strictly |
//! | `engine` | the connections |
//! | [`outcome`] | what came of it, as a table and as CSV |

mod engine;
pub mod outcome;
pub mod request;
mod response;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

pub use engine::generate;
pub use outcome::Outcome;
pub use request::Requests;

/// A click id's characters.
pub const CLICK_ID_CHARS: usize = 48;

/// A click id as it was received: characters of base64url.
pub type ClickId = [u8; CLICK_ID_CHARS];

/// A 302 that arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    pub id: ClickId,
    /// The place, among the codes of the run, of the one that was asked for.
    pub code: u32,
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many a second, whatever the server does.
    Open { per_second: u32 },
    /// One after the other on each connection.
    Closed,
}

/// How a server is asked.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub address: SocketAddr,
    /// Connections that are kept open.
    pub connections: u16,
    pub pace: Pace,
    /// None: until it is told to stop, or the requests are used up.
    pub duration: Option<Duration>,
    /// An answer that takes longer will not come.
    pub answer_within: Duration,
    /// Whether the click ids are kept, and what was asked for.
    pub keep_ids: bool,
}

/// How a run is watched and ended from another thread.
#[derive(Debug, Default)]
pub struct Live {
    /// 302s so far.
    pub answered: AtomicU64,
    /// Set it to end the run: what is in flight is still awaited.
    pub stop: AtomicBool,
}
