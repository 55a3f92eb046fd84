//! What is measured: the redirector, and nginx giving the same answer.
//!
//! The names of the redirector's settings stand here and nowhere else in this tool.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::{Process, free_address, get, header, status};
use crate::Error;
use crate::load::request::BROWSER_HEADERS;

/// What the tool's keys in Redis and topics in Kafka begin with: nobody else reads them.
pub(crate) const REDIS_PREFIX: &str = "peers:";
pub(crate) const TOPIC_PREFIX: &str = "peers-";

/// The CPU of whatever is measured, and that of whoever asks.
pub(crate) const SERVER_CPU: &str = "0";
pub(crate) const LOAD_CPU: usize = 1;

/// Headers of a redirector's answer that nginx repeats.
const REPEATED: [&str; 4] = [
    "cache-control",
    "referrer-policy",
    "x-robots-tag",
    "set-cookie",
];

/// A redirector that serves.
#[derive(Debug)]
pub(crate) struct Redirector {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// From the start of the process until it said that it is ready.
    pub(crate) ready_after: Duration,
}

/// How a redirector is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) runtimes: usize,
    /// As taskset writes them.
    pub(crate) cpus: &'static str,
    /// `JOURNAL_SYNC`.
    pub(crate) sync: &'static str,
}

impl Redirector {
    /// Starts one with a journal of its own in `work`. Redis and Kafka are the environment's.
    pub(crate) fn start(
        shape: Shape,
        cached_links: usize,
        work: &Path,
        number: u32,
    ) -> Result<Self, Error> {
        let (address, operations) = (free_address()?, free_address()?);
        let journal = work.join(format!("journal-{number}"));
        std::fs::create_dir_all(&journal).map_err(Error::io("make a journal's folder"))?;
        let environment = [
            ("LISTEN", address.to_string()),
            ("METRICS_LISTEN", operations.to_string()),
            ("WORKERS", shape.runtimes.to_string()),
            ("LINK_CACHE_ENTRIES", cached_links.to_string()),
            ("JOURNAL_DIR", journal.display().to_string()),
            ("JOURNAL_SYNC", shape.sync.to_owned()),
            ("REDIS_PREFIX", REDIS_PREFIX.to_owned()),
            ("KAFKA_TOPIC_PREFIX", TOPIC_PREFIX.to_owned()),
            ("CLICK_TOKEN_KEYS", format!("1:{}", "5a".repeat(32))),
            ("SEALING_KEYS", format!("1:{}", "5a".repeat(32))),
            ("FINGERPRINT_KEY", "a5".repeat(32)),
            ("RUST_LOG", "warn".to_owned()),
        ];
        let mut process = Process::start(&program()?, shape.cpus, &[], &environment)?;
        let ready_after = process.serves(operations, "/readyz")?;
        Ok(Self {
            process,
            address,
            ready_after,
        })
    }

    /// The answer to one browser's click on `code`.
    pub(crate) fn answer(&self, code: &str) -> Result<String, Error> {
        let answer = get(self.address, &format!("/r/{code}"), &BROWSER_HEADERS)
            .map_err(Error::io("ask the redirector"))?;
        if status(&answer) == Some(302) {
            Ok(answer)
        } else {
            Err(Error::Unreadable {
                doing: "ask the redirector for a link".to_owned(),
                why: answer,
            })
        }
    }
}

/// `REDIRECTOR`, or the one beside this program.
fn program() -> Result<PathBuf, Error> {
    if let Some(given) = std::env::var_os("REDIRECTOR") {
        return Ok(given.into());
    }
    let own = std::env::current_exe().map_err(Error::io("find this program's folder"))?;
    Ok(own.with_file_name("redirector"))
}

/// An nginx with one worker, which answers every request as a redirector answered one.
#[derive(Debug)]
pub(crate) struct Nginx {
    _master: Process,
    pub(crate) worker: u32,
    pub(crate) address: SocketAddr,
}

impl Nginx {
    pub(crate) fn start(answer: &str, logs: bool, work: &Path) -> Result<Self, Error> {
        let address = free_address()?;
        let folder = work.join(if logs { "nginx-logging" } else { "nginx" });
        std::fs::create_dir_all(&folder).map_err(Error::io("make nginx's folder"))?;
        let path = folder.join("nginx.conf");
        let text = configuration(answer, address, logs, &folder)?;
        std::fs::write(&path, text).map_err(Error::io("write nginx's configuration"))?;
        let (folder, path) = (folder.display().to_string(), path.display().to_string());
        let arguments = ["-p", &folder, "-c", &path];
        let mut master = Process::start(&nginx_program(), SERVER_CPU, &arguments, &[])?;
        master.serves(address, "/r/x")?;
        Ok(Self {
            worker: master.worker()?,
            _master: master,
            address,
        })
    }
}

/// Debian keeps it where not every PATH looks.
fn nginx_program() -> PathBuf {
    let debian = Path::new("/usr/sbin/nginx");
    if debian.exists() {
        debian.to_owned()
    } else {
        "nginx".into()
    }
}

fn configuration(
    answer: &str,
    address: SocketAddr,
    logs: bool,
    folder: &Path,
) -> Result<String, Error> {
    let folder = folder.display();
    let quoted = |text: &str| {
        if text.contains(['"', '\\', '$', '\n']) {
            return Err(Error::Unreadable {
                doing: "repeat the redirector's answer by nginx".to_owned(),
                why: format!("a header needs escaping: {text}"),
            });
        }
        Ok(format!("\"{text}\""))
    };
    let mut text = format!(
        "daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n  server_tokens off;\n  keepalive_requests 1000000000;\n"
    );
    let access_log = if logs {
        format!("{folder}/access.log combined buffer=64k flush=1s")
    } else {
        "off".to_owned()
    };
    // Writing to a String can't fail.
    let _ = writeln!(text, "  access_log {access_log};");
    for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "  {name}_temp_path {folder}/{name};");
    }
    let _ = writeln!(
        text,
        "  server {{\n    listen {address};\n    location /r/ {{"
    );
    for name in REPEATED {
        for value in header(answer, name) {
            let _ = writeln!(text, "      add_header {name} {};", quoted(value)?);
        }
    }
    let location = header(answer, "location").concat();
    let _ = writeln!(
        text,
        "      return 302 {};\n    }}\n  }}\n}}",
        quoted(&location)?
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_repeats_the_answer_header_by_header() {
        let answer = "HTTP/1.1 302 Found\r\nlocation: https://shop.example/?click_id=x\r\n\
            set-cookie: a=1; Path=/\r\nset-cookie: b=2\r\nx-other: no\r\n\r\n";
        let address = "127.0.0.1:1".parse().unwrap();
        let text = configuration(answer, address, true, Path::new("/w")).unwrap();
        for line in [
            "return 302 \"https://shop.example/?click_id=x\";",
            "add_header set-cookie \"a=1; Path=/\";",
            "add_header set-cookie \"b=2\";",
            "access_log /w/access.log combined buffer=64k flush=1s;",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("x-other"));
        let hostile = "HTTP/1.1 302 Found\r\nlocation: https://a/$host\r\n\r\n";
        assert!(configuration(hostile, address, false, Path::new("/w")).is_err());
    }
}
