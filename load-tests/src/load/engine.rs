//! The connections of a run, served by one thread and one epoll.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::response::{self, Answer};
use super::{Answered, Live, Outcome, Pace, Requests, Settings};
use crate::Error;

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// How often timeouts, and whether to stop, are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The pause before a connection that was refused or lost is opened again.
const RETRY_AFTER: Duration = Duration::from_millis(5);
/// How long requests that were due in time may still be sent after the end.
const DRAIN: Duration = Duration::from_secs(10);
/// Events taken from the kernel at once.
const EVENTS: usize = 256;

/// Sends `requests` as `settings` say and returns what came of them, after the last answer.
///
/// # Errors
/// When the server can't be reached at the start, or the kernel refuses epoll or a timer.
pub fn generate(settings: &Settings, requests: &Requests, live: &Live) -> Result<Outcome, Error> {
    std::net::TcpStream::connect(settings.address).map_err(Error::io(format!(
        "connect to {}; does it run?",
        settings.address
    )))?;
    Engine::new(settings, requests, live)
        .and_then(|mut engine| engine.run())
        .map_err(Error::io("generate load"))
}

struct Engine<'r> {
    settings: &'r Settings,
    requests: &'r Requests,
    live: &'r Live,
    poll: Poll,
    timer: TimerFd,
    connections: Vec<Connection>,
    /// Open connections without a request, the longest idle first.
    idle: VecDeque<usize>,
    started: Instant,
    /// Requests that will be asked at most.
    limit: Option<u64>,
    /// Requests asked so far.
    sent: u64,
    in_flight: usize,
    outcome: Outcome,
}

struct Connection {
    stream: Option<TcpStream>,
    state: State,
    request: Vec<u8>,
    /// Which code the request asks for.
    code: u32,
    written: usize,
    answer: Vec<u8>,
    arrived: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Down {
        retry_at: Instant,
    },
    Connecting {
        since: Instant,
    },
    Idle,
    /// A request is on its way since `sent`; it should have been sent at `intended`.
    Busy {
        intended: Instant,
        sent: Instant,
    },
}

/// What a connection's bytes amount to.
enum Progress {
    More,
    Answered(Answer),
    Malformed,
    Lost,
}

impl<'r> Engine<'r> {
    fn new(settings: &'r Settings, requests: &'r Requests, live: &'r Live) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let number = timer.as_fd().as_raw_fd();
        let token = Token(usize::from(settings.connections));
        poll.registry()
            .register(&mut SourceFd(&number), token, Interest::READABLE)?;
        let started = Instant::now();
        let connections = (0..settings.connections).map(|_| Connection {
            stream: None,
            state: State::Down { retry_at: started },
            request: Vec::with_capacity(1024),
            code: 0,
            written: 0,
            answer: vec![0; MAX_ANSWER_BYTES],
            arrived: 0,
        });
        Ok(Self {
            settings,
            requests,
            live,
            poll,
            timer,
            connections: connections.collect(),
            idle: VecDeque::with_capacity(usize::from(settings.connections)),
            started,
            limit: requests.len(),
            sent: 0,
            in_flight: 0,
            outcome: Outcome::new(settings.pace),
        })
    }

    fn run(&mut self) -> io::Result<Outcome> {
        let mut events = Events::with_capacity(EVENTS);
        self.open_all(&mut events)?;
        self.started = Instant::now();
        if let (Pace::Open { .. }, Some(duration)) = (self.settings.pace, self.settings.duration) {
            // What is due at the very end is not asked any more.
            self.limit = Some(self.due_until(self.started + duration));
        }
        let mut looked = self.started;
        let mut ended: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let mut over = self.is_over(now);
            if now.duration_since(looked) >= LOOK_EVERY {
                looked = now;
                self.give_up_late(now);
                over |= self.live.stop.load(Ordering::Relaxed);
            }
            if over && ended.is_none() {
                // Nothing more becomes due; what was due is still sent.
                self.limit = Some(self.due_until(now));
                ended = Some(now);
            }
            self.reopen(now)?;
            self.send_due(now);
            if let Some(at) = ended {
                let all_sent = self.limit.is_none_or(|limit| self.sent >= limit);
                if (all_sent && self.in_flight == 0) || now.duration_since(at) > DRAIN {
                    self.outcome.not_sent = self
                        .limit
                        .map_or(0, |limit| limit.saturating_sub(self.sent));
                    self.outcome.cut += u64::try_from(self.in_flight).unwrap_or(u64::MAX);
                    break;
                }
            }
            self.wait(&mut events, now)?;
            for event in &events {
                if event.token().0 < self.connections.len() {
                    self.handle(event)?;
                }
            }
        }
        self.outcome.sent = self.sent;
        self.outcome.took = self.started.elapsed();
        Ok(std::mem::replace(
            &mut self.outcome,
            Outcome::new(self.settings.pace),
        ))
    }

    /// Opens the connections before the clock starts, as far as the server accepts them.
    fn open_all(&mut self, events: &mut Events) -> io::Result<()> {
        let begun = Instant::now();
        while self.idle.len() < self.connections.len()
            && begun.elapsed() < self.settings.answer_within
        {
            self.reopen(Instant::now())?;
            self.poll.poll(events, Some(RETRY_AFTER))?;
            for event in events.iter() {
                if event.token().0 < self.connections.len() {
                    self.handle(event)?;
                }
            }
        }
        Ok(())
    }

    /// Whether nothing more becomes due.
    fn is_over(&self, now: Instant) -> bool {
        let late = self
            .settings
            .duration
            .is_some_and(|duration| now.duration_since(self.started) >= duration);
        late || self.limit.is_some_and(|limit| self.sent >= limit)
    }

    /// How many requests are due until `now`, of those that there are.
    fn due_until(&self, now: Instant) -> u64 {
        let due = match self.settings.pace {
            Pace::Closed => self.sent,
            Pace::Open { per_second } => {
                let mut elapsed = now.duration_since(self.started);
                if let Some(duration) = self.settings.duration {
                    elapsed = elapsed.min(duration);
                }
                let due = elapsed.as_nanos() * u128::from(per_second) / 1_000_000_000;
                u64::try_from(due).unwrap_or(u64::MAX)
            }
        };
        self.limit.map_or(due, |limit| due.min(limit))
    }

    /// When the n-th request should be sent.
    fn intended(&self, n: u64, per_second: u32) -> Instant {
        let nanos = u128::from(n) * 1_000_000_000 / u128::from(per_second.max(1));
        self.started + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Sends what is due, as far as there are idle connections.
    fn send_due(&mut self, now: Instant) {
        while !self.idle.is_empty() && self.limit.is_none_or(|limit| self.sent < limit) {
            let intended = match self.settings.pace {
                Pace::Closed => now,
                Pace::Open { per_second } => {
                    let intended = self.intended(self.sent, per_second);
                    if intended > now {
                        return;
                    }
                    intended
                }
            };
            let Some(at) = self.idle.pop_front() else {
                return;
            };
            let connection = &mut self.connections[at];
            connection.code = self.requests.write(self.sent, &mut connection.request);
            connection.written = 0;
            connection.arrived = 0;
            connection.state = State::Busy {
                intended,
                sent: now,
            };
            self.sent += 1;
            self.in_flight += 1;
            if connection.write().is_err() {
                self.lose(at, now);
            }
        }
    }

    /// Sleeps until something happens: an event, the next request's time, or the next look.
    fn wait(&mut self, events: &mut Events, now: Instant) -> io::Result<()> {
        if let Pace::Open { per_second } = self.settings.pace
            && !self.idle.is_empty()
            && self.limit.is_none_or(|limit| self.sent < limit)
        {
            let gap = self
                .intended(self.sent, per_second)
                .saturating_duration_since(now);
            // An expired timer rings at once, but zero would switch it off.
            let gap = gap.clamp(Duration::from_nanos(1), LOOK_EVERY);
            self.timer
                .set(Expiration::OneShot(gap.into()), TimerSetTimeFlags::empty())?;
        }
        let down = self
            .connections
            .iter()
            .any(|connection| matches!(connection.state, State::Down { .. }));
        let limit = if down { RETRY_AFTER } else { LOOK_EVERY };
        match self.poll.poll(events, Some(limit)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            other => other,
        }
    }

    fn handle(&mut self, event: &Event) -> io::Result<()> {
        let at = event.token().0;
        let now = Instant::now();
        match self.connections[at].state {
            State::Down { .. } => {}
            State::Connecting { .. } => self.connected(at, now)?,
            State::Idle => {
                // Nothing was asked, so nothing can come but the end.
                if event.is_readable() || event.is_read_closed() {
                    self.outcome.closed += 1;
                    self.idle.retain(|idle| *idle != at);
                    self.close(at, now);
                }
            }
            State::Busy { intended, .. } => {
                if event.is_writable() && self.connections[at].write().is_err() {
                    self.lose(at, now);
                    return Ok(());
                }
                if event.is_readable() || event.is_read_closed() {
                    let progress = self.connections[at].read(event.is_read_closed());
                    self.progressed(at, intended, progress);
                }
            }
        }
        Ok(())
    }

    fn progressed(&mut self, at: usize, intended: Instant, progress: Progress) {
        let now = Instant::now();
        match progress {
            Progress::More => {}
            Progress::Lost => self.lose(at, now),
            Progress::Malformed => {
                self.in_flight -= 1;
                self.outcome.malformed += 1;
                self.close(at, now);
            }
            Progress::Answered(answer) => {
                self.in_flight -= 1;
                self.outcome.latency(now.duration_since(intended));
                self.outcome.status(answer.status);
                if let Some(id) = answer.click_id {
                    self.live.answered.fetch_add(1, Ordering::Relaxed);
                    if self.settings.keep_ids {
                        let code = self.connections[at].code;
                        self.outcome.clicks.push(Answered { id, code });
                    }
                }
                if answer.closes {
                    self.outcome.closed += 1;
                    self.close(at, now);
                } else {
                    self.connections[at].state = State::Idle;
                    self.idle.push_back(at);
                    // At once, because whoever comes next in the list of events can wait and this
                    // connection can't: in a closed loop its server would be idle.
                    self.send_due(now);
                }
            }
        }
    }

    /// The request in flight will not be answered.
    fn lose(&mut self, at: usize, now: Instant) {
        self.in_flight -= 1;
        self.outcome.cut += 1;
        self.close(at, now);
    }

    fn close(&mut self, at: usize, now: Instant) {
        let connection = &mut self.connections[at];
        // Dropping it takes it out of epoll.
        connection.stream = None;
        connection.state = State::Down {
            retry_at: now + RETRY_AFTER,
        };
    }

    fn reopen(&mut self, now: Instant) -> io::Result<()> {
        for at in 0..self.connections.len() {
            let State::Down { retry_at } = self.connections[at].state else {
                continue;
            };
            if retry_at > now {
                continue;
            }
            let mut stream = match TcpStream::connect(self.settings.address) {
                Ok(stream) => stream,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    self.outcome.refused += 1;
                    self.close(at, now);
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.poll.registry().register(
                &mut stream,
                Token(at),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            let connection = &mut self.connections[at];
            connection.stream = Some(stream);
            connection.state = State::Connecting { since: now };
        }
        Ok(())
    }

    /// Looks at how an attempt to connect went.
    fn connected(&mut self, at: usize, now: Instant) -> io::Result<()> {
        let Some(stream) = &self.connections[at].stream else {
            return Ok(());
        };
        let failed = stream.take_error()?;
        match failed {
            None => match stream.peer_addr() {
                Ok(_) => {
                    // Another socket option that may fail on a connection that is gone already.
                    let _ = stream.set_nodelay(true);
                    self.connections[at].state = State::Idle;
                    self.idle.push_back(at);
                }
                Err(error) if error.kind() == ErrorKind::NotConnected => {}
                Err(_) => self.close(at, now),
            },
            Some(error) => {
                if error.kind() == ErrorKind::ConnectionRefused {
                    self.outcome.refused += 1;
                } else {
                    self.outcome.not_connected += 1;
                }
                self.close(at, now);
            }
        }
        Ok(())
    }

    /// Gives up requests and connections that take too long.
    fn give_up_late(&mut self, now: Instant) {
        for at in 0..self.connections.len() {
            let limit = self.settings.answer_within;
            match self.connections[at].state {
                State::Busy { sent, .. } if now.duration_since(sent) > limit => {
                    self.in_flight -= 1;
                    self.outcome.timed_out += 1;
                    self.close(at, now);
                }
                State::Connecting { since } if now.duration_since(since) > limit => {
                    self.outcome.not_connected += 1;
                    self.close(at, now);
                }
                _ => {}
            }
        }
    }
}

impl Connection {
    /// Writes what is left of the request, as far as the kernel takes it.
    fn write(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        while self.written < self.request.len() {
            match stream.write(&self.request[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has arrived; to the end if the server has `closed` its side.
    fn read(&mut self, closed: bool) -> Progress {
        let Some(stream) = &mut self.stream else {
            return Progress::More;
        };
        loop {
            if self.arrived == self.answer.len() {
                return Progress::Malformed;
            }
            let free = self.answer.len() - self.arrived;
            match stream.read(&mut self.answer[self.arrived..]) {
                Ok(0) => return Progress::Lost,
                Ok(n) => {
                    self.arrived += n;
                    match response::read(&self.answer[..self.arrived]) {
                        Ok(Some(mut answer)) => {
                            answer.closes |= closed;
                            return Progress::Answered(answer);
                        }
                        Err(_) => return Progress::Malformed,
                        // Less than there was room for: there is no more (epoll(7)).
                        Ok(None) if n < free && !closed => return Progress::More,
                        Ok(None) => {}
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::More,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Progress::Lost,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::thread;

    use super::*;

    const ID: &str = "AZASNFZ4erwN7wEjRWeJqwAAAAAAAABNBXaFh4mKi4yNjo-Q";

    fn settings(address: SocketAddr, pace: Pace, duration: Duration) -> Settings {
        Settings {
            address,
            connections: 1,
            pace,
            duration: Some(duration),
            answer_within: Duration::from_secs(5),
            keep_ids: true,
        }
    }

    /// Serves `answers` requests on each connection, one connection after the other, and closes it.
    /// Before the request `stall.0` is answered, `stall.1` passes.
    fn server(connections: usize, answers: usize, stall: (usize, Duration)) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut served = 0;
            // The first is the look whether anybody is there.
            for stream in listener.incoming().skip(1).take(connections) {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut left = answers;
                while left > 0 {
                    let mut bytes = [0; 4096];
                    let Ok(n @ 1..) = stream.read(&mut bytes) else {
                        break;
                    };
                    request.extend_from_slice(&bytes[..n]);
                    if !request.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    request.clear();
                    if served == stall.0 {
                        thread::sleep(stall.1);
                    }
                    served += 1;
                    left -= 1;
                    let answer = format!(
                        "HTTP/1.1 302 Found\r\nlocation: https://a.example/?click_id={ID}\r\ncontent-length: 0\r\n\r\n"
                    );
                    stream.write_all(answer.as_bytes()).unwrap();
                }
                // A request that comes now is never answered.
            }
        });
        address
    }

    fn requests(address: SocketAddr) -> Requests {
        Requests::zipf(vec!["demo".into()], address, "", 1)
    }

    #[test]
    fn a_stall_is_charged_to_every_request_that_had_to_wait() {
        let stall = Duration::from_millis(500);
        let address = server(1, 10_000, (50, stall));
        let pace = Pace::Open { per_second: 200 };
        let settings = settings(address, pace, Duration::from_secs(1));
        let outcome = generate(&settings, &requests(address), &Live::default()).unwrap();
        assert_eq!(outcome.sent, 200);
        assert_eq!(outcome.answered(), 200, "{outcome:?}");
        assert_eq!(outcome.clicks.len(), 200);
        assert!(outcome.is_clean());
        // Half of the run's requests were due within the stall: the slowest quarter waited for at
        // least half of it. A closed loop would have seen one slow request.
        let p75 = outcome.at(0.75);
        assert!(p75 >= stall / 3, "{p75:?}");
        assert!(outcome.at(0.3) < stall / 3);
    }

    #[test]
    fn a_lost_connection_is_opened_again_and_the_load_goes_on() {
        let address = server(100, 10, (usize::MAX, Duration::ZERO));
        let pace = Pace::Open { per_second: 100 };
        let settings = settings(address, pace, Duration::from_secs(1));
        let outcome = generate(&settings, &requests(address), &Live::default()).unwrap();
        assert_eq!(outcome.sent, 100);
        assert_eq!(outcome.answered() + outcome.cut, 100, "{outcome:?}");
        assert!(outcome.closed + outcome.cut >= 9, "{outcome:?}");
        assert_eq!(outcome.refused, 0);
    }

    #[test]
    fn a_closed_loop_asks_as_fast_as_it_is_answered_and_ends_with_its_requests() {
        let address = server(1, 10_000, (usize::MAX, Duration::ZERO));
        let settings = settings(address, Pace::Closed, Duration::from_secs(60));
        let codes = (0..500).map(|n| format!("c{n}").into()).collect();
        let requests = Requests::once(codes, address);
        let outcome = generate(&settings, &requests, &Live::default()).unwrap();
        assert_eq!(outcome.answered(), 500);
        let asked: Vec<u32> = outcome.clicks.iter().map(|click| click.code).collect();
        assert_eq!(asked, (0..500).collect::<Vec<u32>>());
        assert!(outcome.took < Duration::from_secs(30));
    }

    #[test]
    fn nobody_there_is_an_error_at_the_start() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let settings = settings(address, Pace::Closed, Duration::from_secs(1));
        let error = generate(&settings, &requests(address), &Live::default()).unwrap_err();
        assert!(error.to_string().contains("does it run?"), "{error}");
    }
}
