//! The fast lane: plain HTTP/1.1 GETs of links, which are nearly all there is, read and answered with
//! as little work as they need. Any other request, and any that is not quite what a browser sends,
//! moves its connection to hyper for good, with every byte that was read and not answered: hyper
//! decides what is wrong with it. The lane refuses nothing and knows nothing of bodies.
//!
//! What it takes: a whole head within [`MAX_HEADER_BYTES`] and [`MAX_HEADERS`]; `GET`, HTTP/1.1, an address
//! in origin form without a byte that an address can't have; one valid `Host`; no header that changes
//! how the connection or a body is read.
//!
//! No map of headers is built in either direction: that is what most of hyper's share of a click's
//! cost went into (benches/README.md).

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use httparse::Status;
use hyper::http::response::Parts;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use crate::client::{TrustedProxies, normal_host};
use crate::outbox::Outgoing;
use crate::redirect::{Ask, Reply, is_link, redirect};
use crate::server::{MAX_HEADER_BYTES, MAX_HEADERS, Worker};
use crate::shopper::Shopper;
use crate::watch::Watch;

/// Bytes that a connection's first read has room for: mostly a browser's whole request.
const FIRST_BYTES: usize = 2048;
/// Answers that are gathered before they are written, in bytes, for a client that sends many requests
/// at once.
const MAX_GATHERED_BYTES: usize = 64 * 1024;

/// How a connection left the lane.
pub(crate) enum Left {
    /// It has ended.
    Ended,
    /// It goes on with hyper, from the first byte that was not answered.
    ForHyper(Rewound),
}

/// Serves a connection until it ends or leaves the lane.
pub(crate) async fn serve(
    stream: TcpStream,
    worker: &Rc<Worker>,
    watch: &Rc<Watch>,
    client: IpAddr,
) -> Left {
    let (reader, writer) = stream.into_split();
    let mut lane = Lane {
        reader,
        input: Vec::new(),
        answered: 0,
        outgoing: Rc::new(Outgoing::new(writer, Rc::clone(watch))),
    };
    match lane.run(worker, watch, client).await {
        Ok(Ended) => Left::Ended,
        Err(Unusual) => lane.for_hyper(worker).map_or(Left::Ended, Left::ForHyper),
    }
}

struct Lane {
    reader: OwnedReadHalf,
    /// What was read, and how much of it has been answered.
    input: Vec<u8>,
    answered: usize,
    outgoing: Rc<Outgoing>,
}

struct Ended;

/// Not for this lane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unusual;

impl Lane {
    async fn run(
        &mut self,
        worker: &Rc<Worker>,
        watch: &Watch,
        client: IpAddr,
    ) -> Result<Ended, Unusual> {
        loop {
            let head = read_head(&self.input[self.answered..], &worker.edge().proxies);
            match head {
                Ok(Some(head)) => {
                    let answering = watch.answering();
                    let reply = head.redirect(worker, client).await;
                    let last = watch.is_finishing();
                    let gathered = match reply {
                        Reply::Found(found) => {
                            worker.count("redirect", 302);
                            let date = worker.date();
                            self.outgoing.write(|out| found.write(out, &date, last))
                        }
                        Reply::Page(page) => {
                            worker.count("redirect", page.status().as_u16());
                            let (head, body) = page.into_parts();
                            let Ok(body) = body.collect().await;
                            let (body, date) = (body.to_bytes(), worker.date());
                            self.outgoing
                                .write(|out| write_page(&head, &body, out, &date, last))
                        }
                    };
                    drop(answering);
                    self.answered += head.length;
                    if last {
                        return flush(&self.outgoing, watch)
                            .await
                            .map_or(Ok(Ended), |()| Ok(Ended));
                    }
                    if gathered >= MAX_GATHERED_BYTES && flush(&self.outgoing, watch).await.is_err()
                    {
                        return Ok(Ended);
                    }
                }
                Ok(None) => {
                    worker.outbox.put(&self.outgoing);
                    if self.read(watch).await.is_err() {
                        return Ok(Ended);
                    }
                }
                Err(Unusual) => {
                    return match flush(&self.outgoing, watch).await {
                        Ok(()) => Err(Unusual),
                        Err(Ended) => Ok(Ended),
                    };
                }
            }
        }
    }

    /// Waits for more. What the outbox could not send is sent before.
    async fn read(&mut self, watch: &Watch) -> Result<(), Ended> {
        self.input.drain(..self.answered);
        self.answered = 0;
        if self.input.capacity() - self.input.len() < FIRST_BYTES / 2 {
            self.input.reserve(FIRST_BYTES.max(self.input.len()));
        }
        let outgoing = &self.outgoing;
        let mut read = pin!(self.reader.read_buf(&mut self.input));
        loop {
            let read_unless_stuck = poll_fn(|context| match outgoing.is_stuck() {
                true => Poll::Ready(None),
                false => read.as_mut().poll(context).map(Some),
            });
            match watch.unless_closing(read_unless_stuck).await {
                Some(Some(Ok(1..))) => return Ok(()),
                Some(Some(Ok(0) | Err(_))) | None => return Err(Ended),
                Some(None) => flush(outgoing, watch).await?,
            }
        }
    }

    /// What hyper goes on with; everything was sent.
    fn for_hyper(self, worker: &Worker) -> Option<Rewound> {
        worker.outbox.withdraw(&self.outgoing);
        let writer = Rc::into_inner(self.outgoing)?.into_half();
        Some(Rewound {
            read: self.input,
            from: self.answered,
            stream: self.reader.reunite(writer).ok()?,
        })
    }
}

/// Sends what was gathered, however long that takes.
async fn flush(outgoing: &Outgoing, watch: &Watch) -> Result<(), Ended> {
    match watch.unless_closing(outgoing.flush()).await {
        Some(Ok(())) => Ok(()),
        Some(Err(_)) | None => Err(Ended),
    }
}

/// A request that the lane takes.
#[derive(Debug)]
pub(crate) struct Head<'b> {
    pub(crate) length: usize,
    pub(crate) path: &'b str,
    pub(crate) query: Option<&'b str>,
    pub(crate) host: std::borrow::Cow<'b, str>,
    pub(crate) shopper: Shopper<'b>,
}

impl Head<'_> {
    async fn redirect(&self, worker: &Worker, client: IpAddr) -> Reply {
        let ask = Ask {
            path: self.path,
            query: self.query,
            is_head: false,
            host: Some(&self.host),
            shopper: &self.shopper,
            peer: client,
        };
        redirect(worker, &ask).await
    }
}

/// Reads the first request in `bytes`; none: it is not whole yet.
pub(crate) fn read_head<'b>(
    bytes: &'b [u8],
    proxies: &TrustedProxies,
) -> Result<Option<Head<'b>>, Unusual> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(Status::Complete(length)) if length <= MAX_HEADER_BYTES => length,
        Ok(Status::Partial) if bytes.len() < MAX_HEADER_BYTES => return Ok(None),
        _ => return Err(Unusual),
    };
    let (Some("GET"), Some(target), Some(1)) = (request.method, request.path, request.version)
    else {
        return Err(Unusual);
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if !target.starts_with('/') || !target.bytes().all(is_plain) || !is_link(path) {
        return Err(Unusual);
    }
    let mut host = None;
    for field in &*request.headers {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            4 if is("host") && host.is_none() => host = Some(field.value),
            10 if is("connection") && field.value.eq_ignore_ascii_case(b"keep-alive") => {}
            2 if is("te") => return Err(Unusual),
            4 if is("host") => return Err(Unusual),
            6 if is("expect") => return Err(Unusual),
            7 if is("upgrade") || is("trailer") => return Err(Unusual),
            10 if is("connection") => return Err(Unusual),
            14 if is("content-length") => return Err(Unusual),
            17 if is("transfer-encoding") => return Err(Unusual),
            _ => {}
        }
    }
    let host = host
        .and_then(|host| std::str::from_utf8(host).ok())
        .and_then(normal_host)
        .ok_or(Unusual)?;
    let fields = request.headers.iter();
    Ok(Some(Head {
        length,
        path,
        query,
        host,
        shopper: Shopper::read(fields.map(|f| (f.name.as_bytes(), f.value)), proxies),
    }))
}

/// Whether every reader of addresses takes this byte alike: RFC 3986's characters and `%`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=%".contains(&byte)
}

fn write_page(head: &Parts, body: &[u8], out: &mut Vec<u8>, date: &str, last: bool) {
    let mut put = |text: &[u8]| out.extend_from_slice(text);
    put(b"HTTP/1.1 ");
    put(head.status.as_str().as_bytes());
    put(b" ");
    put(head
        .status
        .canonical_reason()
        .unwrap_or_default()
        .as_bytes());
    for (name, value) in &head.headers {
        put(b"\r\n");
        put(name.as_str().as_bytes());
        put(b": ");
        put(value.as_bytes());
    }
    put(b"\r\ncontent-length: ");
    put(itoa::Buffer::new().format(body.len()).as_bytes());
    put(b"\r\ndate: ");
    put(date.as_bytes());
    if last {
        put(b"\r\nconnection: close");
    }
    put(b"\r\n\r\n");
    put(body);
}

/// A connection some of whose bytes were read already.
pub(crate) struct Rewound {
    read: Vec<u8>,
    from: usize,
    stream: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.read[self.from..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let taken = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..taken]);
        self.from += taken;
        if self.from == self.read.len() {
            self.read = Vec::new();
            self.from = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ForwardingHeader;
    use proptest::prelude::*;

    fn head(bytes: &[u8]) -> Result<Option<Head<'_>>, Unusual> {
        let proxies = TrustedProxies::new(Vec::new(), ForwardingHeader::XForwardedFor);
        read_head(bytes, &proxies)
    }

    const BROWSER: &str = "GET /r/demo?sub1=a%20b HTTP/1.1\r\nHost: Go.Shop.Example:8080\r\nConnection: keep-alive\r\n\
                           User-Agent: Firefox\r\nCookie: a=b\r\n\r\n";

    #[test]
    fn a_browsers_request_is_taken() {
        let taken = head(BROWSER.as_bytes()).unwrap().unwrap();
        assert_eq!((taken.path, taken.query), ("/r/demo", Some("sub1=a%20b")));
        assert_eq!(taken.host, "go.shop.example");
        assert_eq!(taken.shopper.user_agent, b"Firefox");
        assert_eq!(taken.length, BROWSER.len());
        for cut in 0..BROWSER.len() {
            assert!(head(&BROWSER.as_bytes()[..cut]).unwrap().is_none(), "{cut}");
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_hyper() {
        let with = |line: &str| BROWSER.replacen("Cookie: a=b", line, 1);
        let requests = [
            BROWSER.replacen("GET", "HEAD", 1),
            BROWSER.replacen("GET", "POST", 1),
            BROWSER.replacen("HTTP/1.1", "HTTP/1.0", 1),
            BROWSER.replacen("/r/demo", "http://other.example/r/demo", 1),
            BROWSER.replacen("/r/demo", "*", 1),
            BROWSER.replacen("/r/demo", "/r/d{emo", 1),
            BROWSER.replacen("/r/demo", "/r/dém", 1),
            BROWSER.replacen("/r/demo", "/r/demo#x", 1),
            BROWSER.replacen("/r/demo", "/postback", 1),
            BROWSER.replacen("/r/demo", "/t.js", 1),
            BROWSER.replacen("Host: Go.Shop.Example:8080", "X: y", 1),
            BROWSER.replacen("Go.Shop.Example:8080", "a b", 1),
            BROWSER.replacen("keep-alive", "close", 1),
            with("Host: b.example"),
            with("Content-Length: 0"),
            with("content-length: 5"),
            with("Transfer-Encoding: chunked"),
            with("Expect: 100-continue"),
            with("Upgrade: h2c"),
            with("TE: trailers"),
            with("A : b"),
            with("A: b\r\n c"),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            format!("GET /r/{} HTTP/1.1\r\n", "a".repeat(MAX_HEADER_BYTES)),
            with(&"X: y\r\n".repeat(MAX_HEADERS)),
        ];
        for request in requests {
            assert_eq!(head(request.as_bytes()).err(), Some(Unusual), "{request}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = head(&bytes);
            let mut behind = b"GET /r/a HTTP/1.1\r\nHost: a.b\r\n".to_vec();
            behind.extend(&bytes);
            if let Ok(Some(taken)) = head(&behind) {
                prop_assert!(taken.length <= behind.len());
            }
        }
    }
}
