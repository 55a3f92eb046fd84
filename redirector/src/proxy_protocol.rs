//! The PROXY protocol, versions 1 and 2: a load balancer in front says whom it speaks for.
//!
//! Where it is on, each connection begins with a header, and only trusted proxies may connect: from
//! anybody else it would be a claim, and a trusted proxy without one is set up wrongly. Either is
//! closed. Exactly the header is read, never a byte behind it, so the stream goes on as it is.
//!
//! A header that names nobody (`LOCAL` and `UNKNOWN`, the balancer's own health checks; Unix sockets)
//! leaves the peer's own address. Both crates for this were found to take less strict headers
//! (`+80` for a port, any byte behind `PROXY`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::client::TrustedProxies;

/// How long a header may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest header of version 1, with its line end: the protocol's own limit, in bytes.
const MAX_V1_BYTES: usize = 107;
/// Shortest header of version 1: `PROXY UNKNOWN` and a line end, in bytes.
const MIN_V1_BYTES: usize = 15;
/// Longest addresses and extensions of version 2, in bytes. Balancers send a few hundred.
const MAX_V2_BYTES: usize = 4096;
/// What version 2 begins with.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;
/// Addresses and ports of version 2 by family, in bytes.
const V2_IPV4_BYTES: usize = 12;
const V2_IPV6_BYTES: usize = 36;
const V2_UNIX_BYTES: usize = 216;

/// Why a connection is closed before its first request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "not a trusted proxy, and PROXY_PROTOCOL lets only those connect (see TRUSTED_PROXIES)"
    )]
    Untrusted,
    #[error("no PROXY header: it did not arrive within {} s", HEADER_TIMEOUT.as_secs())]
    Timeout,
    #[error("no PROXY header: {0}")]
    Ended(#[from] io::Error),
    #[error("no PROXY header, though PROXY_PROTOCOL wants one on every connection")]
    Absent,
    #[error("the PROXY header breaks the protocol")]
    Malformed,
    #[error("the PROXY header is longer than {MAX_V1_BYTES} (version 1) or {MAX_V2_BYTES} bytes")]
    TooLong,
}

impl Refused {
    /// As a metric's label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Untrusted => "proxy_untrusted",
            _ => "proxy_header",
        }
    }
}

/// Reads the header that `peer` begins with, and returns the client's address.
///
/// # Errors
/// When the connection must be closed.
pub(crate) async fn client_address(
    stream: &mut (impl AsyncRead + Unpin),
    peer: IpAddr,
    trusted: &TrustedProxies,
) -> Result<IpAddr, Refused> {
    if !trusted.trusts(peer.to_canonical()) {
        return Err(Refused::Untrusted);
    }
    let named = tokio::time::timeout(HEADER_TIMEOUT, read(stream))
        .await
        .map_err(|_| Refused::Timeout)??;
    Ok(named.unwrap_or(peer).to_canonical())
}

/// Reads one header of either version. None when it names nobody.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, Refused> {
    let mut start = [0; V2_SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == V2_SIGNATURE {
        read_v2(stream).await
    } else if start.starts_with(b"PROXY ") {
        read_v1(stream, &start).await
    } else {
        Err(Refused::Absent)
    }
}

async fn read_v1(
    stream: &mut (impl AsyncRead + Unpin),
    start: &[u8; V2_SIGNATURE.len()],
) -> Result<Option<IpAddr>, Refused> {
    let mut line = [0; MAX_V1_BYTES];
    line[..start.len()].copy_from_slice(start);
    let mut length = start.len();
    // Never more than what must still come: the line end, or the rest of the shortest header.
    let mut missing = MIN_V1_BYTES - start.len();
    while missing > 0 {
        let end = length + missing;
        let part = line.get_mut(length..end).ok_or(Refused::TooLong)?;
        stream.read_exact(part).await?;
        if part[..missing - 1].contains(&b'\n') {
            return Err(Refused::Malformed); // a line end before the shortest possible one
        }
        length = end;
        missing = match line[..length] {
            [.., b'\r', b'\n'] => 0,
            [.., b'\n'] => return Err(Refused::Malformed),
            [.., b'\r'] => 1,
            _ => 2,
        };
    }
    parse_v1(&line[..length - 2]).ok_or(Refused::Malformed)
}

/// Parses a line of version 1 without its end. The outer none: it breaks the protocol.
#[expect(
    clippy::option_option,
    reason = "malformed, naming nobody, naming somebody"
)]
fn parse_v1(line: &[u8]) -> Option<Option<IpAddr>> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix("PROXY ")?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = line.split(' ');
    let family = words.next()?;
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, _destination) = (address()?, address()?);
    let ports_follow = words.next().is_some_and(is_port) && words.next().is_some_and(is_port);
    (ports_follow && words.next().is_none()).then_some(Some(source))
}

/// Digits without a sign or leading zeros, up to 65535.
fn is_port(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_digit())
        && (word == "0" || !word.starts_with('0'))
        && word.parse::<u16>().is_ok()
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, Refused> {
    let mut fixed = [0; V2_FIXED_BYTES - V2_SIGNATURE.len()];
    stream.read_exact(&mut fixed).await?;
    let [command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2_BYTES {
        return Err(Refused::TooLong);
    }
    // The addresses; what follows them is read over.
    let mut addresses = [0; V2_UNIX_BYTES];
    let known = length.min(addresses.len());
    stream.read_exact(&mut addresses[..known]).await?;
    let mut rest = stream.take((length - known) as u64);
    let skipped = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    if skipped != (length - known) as u64 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    parse_v2(command, family, &addresses[..known]).ok_or(Refused::Malformed)
}

/// Parses what follows the signature of version 2. The outer none: it breaks the protocol.
#[expect(
    clippy::option_option,
    reason = "malformed, naming nobody, naming somebody"
)]
fn parse_v2(command: u8, family: u8, addresses: &[u8]) -> Option<Option<IpAddr>> {
    let proxied = match command {
        0x20 => false, // LOCAL
        0x21 => true,
        _ => return None,
    };
    let named = match family {
        0x00 => None,
        0x11 | 0x12 => {
            let source: [u8; 4] = addresses.get(..V2_IPV4_BYTES)?.first_chunk().copied()?;
            Some(IpAddr::from(source))
        }
        0x21 | 0x22 => {
            let source: [u8; 16] = addresses.get(..V2_IPV6_BYTES)?.first_chunk().copied()?;
            Some(IpAddr::from(source))
        }
        0x31 | 0x32 => {
            addresses.get(..V2_UNIX_BYTES)?;
            None
        }
        // The protocol lets a LOCAL connection say anything here.
        _ if !proxied => None,
        _ => return None,
    };
    // Datagrams (the low half is 2) can't arrive on a stream: then the peer speaks for itself.
    Some(named.filter(|_| proxied && family & 0x0f == 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        header.extend(payload);
        header
    }

    fn v2_ipv4() -> Vec<u8> {
        let addresses = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        v2(0x21, 0x11, &addresses)
    }

    fn v2_ipv6() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let mut payload = source.octets().to_vec();
        payload.extend([0; 20]);
        payload.extend([0x20, 0, 200]); // an extension, read over
        payload.extend([7; 200]);
        v2(0x21, 0x21, &payload)
    }

    /// What a stream of `bytes` says when it arrives in pieces of `piece` bytes, and what is left
    /// of it for the next reader.
    async fn arriving(bytes: &[u8], piece: usize) -> (Result<Option<IpAddr>, Refused>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(piece);
        let sent = bytes.to_vec();
        let sending = async move {
            let _ = far.write_all(&sent).await;
        };
        let reading = async move {
            let said = read(&mut near).await;
            let mut left = Vec::new();
            near.read_to_end(&mut left).await.unwrap();
            (said, left)
        };
        tokio::join!(sending, reading).1
    }

    fn at_once(bytes: &[u8]) -> (Result<Option<IpAddr>, Refused>, Vec<u8>) {
        in_pieces(bytes, 8192)
    }

    fn in_pieces(bytes: &[u8], piece: usize) -> (Result<Option<IpAddr>, Refused>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(arriving(bytes, piece))
    }

    fn said(bytes: &[u8]) -> Option<IpAddr> {
        at_once(bytes).0.unwrap()
    }

    #[test]
    fn both_versions_name_the_client() {
        let v4: IpAddr = "203.0.113.9".parse().unwrap();
        let v6: IpAddr = "2001:db8::9".parse().unwrap();
        assert_eq!(
            said(b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n"),
            Some(v4)
        );
        assert_eq!(said(b"PROXY TCP6 2001:db8::9 ::1 4660 80\r\n"), Some(v6));
        assert_eq!(said(&v2_ipv4()), Some(v4));
        assert_eq!(said(&v2_ipv6()), Some(v6));
    }

    #[test]
    fn a_header_may_name_nobody() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(),
            v2(0x20, 0x00, &[]),
            v2(0x20, 0x11, &[1; 12]),
            v2(0x20, 0xff, &[]),
            v2(0x21, 0x00, &[1; 40]),
            v2(0x21, 0x12, &[1; 12]),
            v2(0x21, 0x31, &[1; 216]),
            v2(0x21, 0x32, &[1; 300]),
        ] {
            assert_eq!(said(&header), None, "{header:?}");
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        for line in [
            "PROXY TCP4 203.0.113.9 10.0.0.1 4660\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4660 80 \r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4660 80 1\r\n",
            "PROXY TCP4 203.0.113.9  10.0.0.1 4660 80\r\n",
            "PROXY TCP4 203.0.113.09 10.0.0.1 4660 80\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 +4660 80\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 04660 80\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 65536 80\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 203.0.113.9 10.0.0.1 4660 80\r\n",
            "PROXY TCP5 203.0.113.9 10.0.0.1 4660 80\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY tcp4 203.0.113.9 10.0.0.1 4660 80\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\nGET / HTTP/1.1\r\n",
            "PROXY TCP4\r\nGET / HTTP/1.1\r\n",
            "PROXY \r\n\r\n\r\n\r\n\r\n",
        ] {
            let (refused, _) = at_once(line.as_bytes());
            assert!(
                matches!(refused, Err(Refused::Malformed)),
                "{line:?}: {refused:?}"
            );
        }
        for header in [
            v2(0x11, 0x11, &[1; 12]), // version 1 in version 2's clothes
            v2(0x22, 0x11, &[1; 12]), // no such command
            v2(0x21, 0x11, &[1; 11]), // too short for its family
            v2(0x21, 0x21, &[1; 35]),
            v2(0x21, 0x31, &[1; 215]),
            v2(0x21, 0x13, &[1; 12]),
            v2(0x21, 0x41, &[1; 12]),
        ] {
            let (refused, _) = at_once(&header);
            assert!(matches!(refused, Err(Refused::Malformed)), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_or_too_long_is_told_apart() {
        let absent = [
            &b"GET /r/demo HTTP/1.1\r\n"[..],
            b"PROXYTCP4 1.1.1.1 ",
            &[0x16; 40],
        ];
        for start in absent {
            assert!(
                matches!(at_once(start).0, Err(Refused::Absent)),
                "{start:?}"
            );
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert!(matches!(
            at_once(endless.as_bytes()).0,
            Err(Refused::TooLong)
        ));
        let huge = v2(0x21, 0x11, &[0; MAX_V2_BYTES + 1]);
        assert!(matches!(at_once(&huge).0, Err(Refused::TooLong)));
        let largest = v2(0x21, 0x11, &[1; MAX_V2_BYTES]);
        assert!(at_once(&largest).0.is_ok());
        for whole in [b"PROXY UNKNOWN\r\n".to_vec(), v2_ipv4(), v2_ipv6()] {
            for end in 0..whole.len() {
                let (refused, _) = at_once(&whole[..end]);
                assert!(
                    matches!(refused, Err(Refused::Ended(_))),
                    "{end} of {whole:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn only_trusted_proxies_are_asked_and_not_for_long() {
        let trusted = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()], Default::default());
        let (mut near, mut far) = tokio::io::duplex(64);
        let stranger = "192.0.2.1".parse().unwrap();
        let refused = client_address(&mut near, stranger, &trusted).await;
        assert!(matches!(refused, Err(Refused::Untrusted)));

        let proxy = "::ffff:10.0.0.1".parse().unwrap();
        far.write_all(b"PROXY TCP4 ").await.unwrap();
        let refused = client_address(&mut near, proxy, &trusted).await;
        assert!(matches!(refused, Err(Refused::Timeout)));

        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
        let address = client_address(&mut near, proxy, &trusted).await.unwrap();
        assert_eq!(address.to_string(), "10.0.0.1");
    }

    proptest! {
        /// However a header is cut on its way, it says the same, and what follows it is untouched.
        #[test]
        fn pieces_change_nothing(
            source in any::<[u8; 4]>(), ports in any::<(u16, u16)>(), v6 in any::<[u8; 16]>(),
            extensions in 0_usize..600, piece in 1_usize..80, follows in ".{0,60}",
        ) {
            let source = IpAddr::from(source);
            let v6 = Ipv6Addr::from(v6);
            let mut payload = v6.octets().to_vec();
            payload.extend(vec![3; 20 + extensions]);
            let headers = [
                (format!("PROXY TCP4 {source} 10.0.0.1 {} {}\r\n", ports.0, ports.1).into_bytes(), source),
                (format!("PROXY TCP6 {v6} ::1 {} {}\r\n", ports.0, ports.1).into_bytes(), v6.into()),
                (v2(0x21, 0x21, &payload), v6.into()),
            ];
            for (mut bytes, expected) in headers {
                bytes.extend(follows.as_bytes());
                let (said, left) = in_pieces(&bytes, piece);
                prop_assert_eq!(said.unwrap(), Some(expected));
                prop_assert_eq!(left, follows.as_bytes());
            }
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_more(
            kind in 0..3, garbage in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = match kind {
                0 => Vec::new(),
                1 => b"PROXY ".to_vec(),
                _ => V2_SIGNATURE.to_vec(),
            };
            bytes.extend(garbage);
            let (said, left) = at_once(&bytes);
            prop_assert!(left.len() <= bytes.len());
            if kind == 0 {
                prop_assert!(said.is_err());
            }
        }
    }
}
