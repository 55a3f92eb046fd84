//! How many connections the edge holds: files for as many as it was told to hold, a share for each
//! address, and none for a client that has stopped reading.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::net::TcpListener;

/// Files that are open beside connections: engines, journal, listeners, certificates.
const OTHER_FILES: u64 = 1024;
/// How long an answer may wait for a client to read it.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Parts of the table of addresses, each with a lock of its own.
const SHARDS: usize = 32;

/// Raises the process's limit of open files so that it can hold `wanted` connections, and returns how
/// many it can.
pub(crate) fn raise_file_limit(wanted: u32) -> u32 {
    let needed = u64::from(wanted) + OTHER_FILES;
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    let (soft, hard) = limits.unwrap_or((OTHER_FILES, OTHER_FILES));
    if soft >= needed {
        return wanted;
    }
    // Beyond the hard limit only a privileged process gets.
    let raised = [(needed, hard.max(needed)), (needed.min(hard), hard)]
        .into_iter()
        .find(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard).is_ok());
    let files = raised.map_or(soft, |(soft, _)| soft);
    let possible = connections_within(files, wanted);
    if possible < wanted {
        tracing::warn!(
            wanted,
            possible,
            files,
            "fewer connections can be held than MAX_CONNECTIONS says: raise the limit of open files \
             (LimitNOFILE=, ulimit -Hn) or lower MAX_CONNECTIONS"
        );
    }
    possible
}

/// Connections that so many files allow: at least half of them, at most `wanted`.
fn connections_within(files: u64, wanted: u32) -> u32 {
    let left = files.saturating_sub(OTHER_FILES).max(files / 2);
    u32::try_from(left).map_or(wanted, |left| left.min(wanted))
}

/// Prepares a listener; what is set here, each connection accepted from it inherits on Linux, without
/// a system call of its own. Answers leave at once, and a connection whose client doesn't read
/// them ends after 30 s: hyper itself would wait forever.
///
/// # Errors
/// When the system refuses an option.
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNREAD_TIMEOUT))
}

/// Counts connections by address, over all cores.
pub(crate) struct PerAddress {
    /// None: no limit.
    limit: Option<u32>,
    hasher: ahash::RandomState,
    shards: [Mutex<HashMap<IpAddr, u32, ahash::RandomState>>; SHARDS],
}

impl PerAddress {
    /// `limit` connections for each address; 0: no limit.
    pub(crate) fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self {
            limit: (limit > 0).then_some(limit),
            hasher: ahash::RandomState::new(),
            shards: Default::default(),
        })
    }

    /// Counts a connection for as long as the answer lives; none when the address has its share.
    pub(crate) fn hold(self: &Arc<Self>, address: IpAddr) -> Option<Held> {
        let Some(limit) = self.limit else {
            return Some(Held(None));
        };
        let holder = holder(address);
        let mut open = self.shard(holder);
        let count = open.entry(holder).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Held(Some((Arc::clone(self), holder))))
    }

    fn shard(
        &self,
        holder: IpAddr,
    ) -> std::sync::MutexGuard<'_, HashMap<IpAddr, u32, ahash::RandomState>> {
        let hash = self.hasher.hash_one(holder);
        // The remainder is below SHARDS.
        let shard = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who counts as one: an IPv4 address, and the /64 of an IPv6 one, which is what a client gets whole.
fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A connection that is counted until this is dropped.
pub(crate) struct Held(Option<(Arc<PerAddress>, IpAddr)>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((per_address, holder)) = &self.0 {
            let mut open = per_address.shard(*holder);
            if let Some(count) = open.get_mut(holder) {
                *count -= 1;
                if *count == 0 {
                    open.remove(holder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_share() {
        let per_address = PerAddress::new(2);
        let hold = |address: &str| per_address.hold(address.parse().unwrap());
        let (first, second) = (hold("192.0.2.1"), hold("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(hold("192.0.2.1").is_none());
        assert!(hold("192.0.2.2").is_some());
        drop(first);
        assert!(hold("192.0.2.1").is_some());
        // One client has a whole /64.
        let _held = (hold("2001:db8::1"), hold("2001:db8::2"));
        assert!(hold("2001:db8::ffff:0:0:3").is_none());
        assert!(hold("2001:db8:0:1::1").is_some());
    }

    #[test]
    fn nothing_is_kept_of_who_left() {
        let per_address = PerAddress::new(1);
        drop(per_address.hold("192.0.2.1".parse().unwrap()));
        assert!(
            per_address
                .shards
                .iter()
                .all(|s| s.lock().unwrap().is_empty())
        );
        // Without a limit nobody is counted.
        let unlimited = PerAddress::new(0);
        let _held: Vec<_> = (0..100)
            .map(|_| unlimited.hold("192.0.2.1".parse().unwrap()).unwrap())
            .collect();
        assert!(
            unlimited
                .shards
                .iter()
                .all(|s| s.lock().unwrap().is_empty())
        );
    }

    #[test]
    fn files_are_left_for_other_things() {
        assert_eq!(connections_within(1_048_576, 100_000), 100_000);
        assert_eq!(connections_within(65_536, 100_000), 64_512);
        assert_eq!(connections_within(1_024, 100_000), 512);
        assert_eq!(connections_within(u64::MAX, u32::MAX), u32::MAX);
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let wanted = u32::try_from(hard.saturating_sub(OTHER_FILES).min(2_000)).unwrap();
        assert_eq!(raise_file_limit(wanted), wanted);
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= u64::from(wanted) + OTHER_FILES);
    }
}
