//! Measured processes: started on given CPUs, ended with this one, their CPU time and memory read.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::Error;

/// How long a process may take to end after it was asked to.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long a process may take until it serves.
const SERVES_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The longest that one small request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A child that ends with this value, and with this process however that ends.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `program` on `cpus` (as taskset writes them).
    pub(crate) fn start(
        program: &Path,
        cpus: &str,
        arguments: &[&str],
        environment: &[(&str, String)],
    ) -> Result<Self, Error> {
        // Both replace themselves by what follows, so the child's id is the program's.
        let child = Command::new("taskset")
            .args(["-c", cpus, "setpriv", "--pdeathsig", "TERM"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::io(format!("start {}", program.display())))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its only child: nginx's worker.
    pub(crate) fn worker(&self) -> Result<u32, Error> {
        let pid = self.pid();
        let children = read(&format!("/proc/{pid}/task/{pid}/children"))?;
        children.trim().parse().map_err(|_| Error::Unreadable {
            doing: "find nginx's worker".to_owned(),
            why: format!("its children are {children:?}"),
        })
    }

    /// Waits until `address` answers a GET of `path` with 200 or 302, and returns how long that took.
    pub(crate) fn serves(&mut self, address: SocketAddr, path: &str) -> Result<Duration, Error> {
        let began = Instant::now();
        loop {
            if let Ok(answer) = get(address, path, &[])
                && matches!(status(&answer), Some(200 | 302))
            {
                return Ok(began.elapsed());
            }
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || began.elapsed() > SERVES_WITHIN {
                return Err(Error::Unreadable {
                    doing: format!("wait until {address} answers {path}"),
                    why: ended.map_or("it takes too long".to_owned(), |end| end.to_string()),
                });
            }
            sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The id is the child's own until it was waited for.
        if let Ok(pid) = i32::try_from(self.pid()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if asked.elapsed() > STOP_WITHIN {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}

/// Keeps this process on one CPU.
pub(crate) fn stay_on(cpu: usize) -> Result<(), Error> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|error| Error::io(format!("stay on CPU {cpu}"))(error.into()))
}

/// User and system time of all threads of a process so far, to the kernel's tick (10 ms).
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, Error> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| unreadable("a process's CPU time", &stat))?;
    Ok(from_ticks(ticks))
}

fn from_ticks(ticks: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| *n > 0)
        .unwrap_or(100);
    Duration::from_nanos(ticks * (1_000_000_000 / per_second))
}

/// The same of a process, its children that live, and those that it has waited for: PostgreSQL's sessions are the latter two.
pub(crate) fn cpu_time_of_family(pid: u32) -> Result<Duration, Error> {
    let mut ticks = 0;
    let entries = std::fs::read_dir("/proc").map_err(Error::io("read /proc"))?;
    for entry in entries.filter_map(Result::ok) {
        // What has just ended is in its parent's sum.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        ticks += family_ticks(&stat, pid).unwrap_or(0);
    }
    Ok(from_ticks(ticks))
}

/// Fields 14 to 17 of the process itself, 14 and 15 of a child.
fn family_ticks(stat: &str, parent: u32) -> Option<u64> {
    let pid: u32 = stat.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let of_parent: u32 = fields.get(1)?.parse().ok()?;
    let count = if pid == parent {
        4
    } else if of_parent == parent {
        2
    } else {
        return None;
    };
    let counted = fields.get(11..11 + count)?;
    Some(
        counted
            .iter()
            .filter_map(|field| field.parse::<u64>().ok())
            .sum(),
    )
}

/// Fields 14 and 15. The name before them may hold anything, spaces and brackets too.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// A process's memory by its name in `/proc/PID/status` (`VmRSS`, `RssAnon`), in KiB.
pub(crate) fn memory_kib(pid: u32, name: &str) -> Result<u64, Error> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value
        .and_then(|value| value.trim().strip_suffix("kB")?.trim().parse().ok())
        .ok_or_else(|| unreadable("a process's memory", &status))
}

fn read(path: &str) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(Error::io(format!("read {path}")))
}

fn unreadable(what: &str, text: &str) -> Error {
    Error::Unreadable {
        doing: format!("read {what}"),
        why: text.to_owned(),
    }
}

/// A port that nobody has at this moment.
pub(crate) fn free_address() -> Result<SocketAddr, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(Error::io("find a free port"))
}

/// One small request on a connection of its own: the answer's head and body, as they came.
pub(crate) fn get(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.extend([*name, ": ", *value, "\r\n"]);
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The status of an answer.
pub(crate) fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

/// The values of a header, in order.
pub(crate) fn header<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    answer
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": "))
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "12 (a) (b c) S 1 12 12 0 -1 4194560 100 0 0 0 70 30 0 0 20 0 3 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(100));
        assert_eq!(cpu_ticks("12 (x) S 1"), None);
        let parent = "1 (p) S 0 1 1 0 -1 0 1 0 0 0 7 3 20 2 20 0 1 0 1 2 3";
        assert_eq!(family_ticks(parent, 1), Some(32));
        assert_eq!(family_ticks(stat, 1), Some(100));
        assert_eq!(family_ticks(stat, 2), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let pid = std::process::id();
        assert!(memory_kib(pid, "VmRSS").unwrap() > 100);
        assert!(cpu_time(pid).unwrap() < Duration::from_secs(86_400));
        assert!(memory_kib(pid, "NoSuchName").is_err());
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let answer =
            "HTTP/1.1 302 Found\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nset-cookie: no";
        assert_eq!(status(answer), Some(302));
        assert_eq!(header(answer, "Set-Cookie"), ["a=1", "b=2"]);
        assert_eq!(status(""), None);
    }
}
