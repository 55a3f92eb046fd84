//! What the person at the terminal sees: a line for each thing that happens, one table at the end.
//!
//! Plain text where the output is no terminal, or `NO_COLOR` is set.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::run_file::{Entry, Running};
use crate::supervisor::Event;

/// Where lines go, and which.
#[derive(Debug)]
pub(crate) struct Console {
    to: To,
    colour: bool,
    /// Set when a command has had its say: its last line shall stay the last one.
    hushed: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Stdout,
    /// For a launcher whose standard output is the command's.
    Stderr,
    /// On standard error, and only what went wrong.
    OnlyTrouble,
}

impl Console {
    pub(crate) fn stdout() -> Self {
        Self::new(To::Stdout, std::io::stdout().is_terminal())
    }

    pub(crate) fn stderr() -> Self {
        Self::new(To::Stderr, std::io::stderr().is_terminal())
    }

    pub(crate) fn only_trouble() -> Self {
        Self::new(To::OnlyTrouble, false)
    }

    fn new(to: To, is_terminal: bool) -> Self {
        let colour = is_terminal && std::env::var_os("NO_COLOR").is_none();
        Self {
            to,
            colour,
            hushed: AtomicBool::new(false),
        }
    }

    /// From now on only trouble is told.
    pub(crate) fn hush(&self) {
        self.hushed.store(true, Ordering::Relaxed);
    }

    /// A line that tells how it goes on.
    pub(crate) fn line(&self, text: &str) {
        if !self.hushed.load(Ordering::Relaxed) {
            self.print(text);
        }
    }

    fn print(&self, text: &str) {
        // A closed terminal or pipe must not end the launcher.
        let _ = match self.to {
            To::Stdout => writeln!(std::io::stdout(), "{text}"),
            To::Stderr => writeln!(std::io::stderr(), "{text}"),
            To::OnlyTrouble => Ok(()),
        };
    }

    /// A line that a person should not miss.
    pub(crate) fn trouble(&self, text: &str) {
        if self.to == To::OnlyTrouble {
            let _ = writeln!(std::io::stderr(), "tributary-local: {text}");
        } else {
            self.print(&self.paint("33", &format!("  ! {text}")));
        }
    }

    pub(crate) fn heading(&self, text: &str) {
        self.line(&self.paint("1", text));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn event(&self, name: &str, event: &Event) {
        match event {
            Event::Started { .. } => {}
            Event::Ready { after, .. } => {
                let ready = self.paint("32", "ready");
                self.line(&format!("  {name:<12} {ready} after {}", seconds(*after)));
            }
            Event::Stopped { after } => {
                self.line(&format!("  {name:<12} stopped in {}", seconds(*after)));
            }
            Event::Exited {
                status,
                uptime,
                restart_in,
            } => self.trouble(&format!(
                "{name} {status} after {}; starting it again in {}",
                seconds(*uptime),
                seconds(*restart_in)
            )),
            Event::Killed => self.trouble(&format!("{name} did not stop in time and was killed")),
        }
    }

    pub(crate) fn given(&self, entry: &Entry) {
        let address = entry.address.fields.values().next_back();
        self.line(&format!(
            "  {:<12} given: {}",
            entry.key,
            without_password(address.map_or("", String::as_str))
        ));
    }

    /// The table of addresses, and what to try first.
    pub(crate) fn table(&self, running: &Running, data: &Path) {
        let address = |name, field| running.address(name, field).unwrap_or("(restarting)");
        self.line("");
        if !running.services.is_empty() {
            let admin = address("admin_api", "url");
            self.row("redirector", address("redirector", "url"));
            self.row("admin page", &format!("{admin}/"));
            self.row("API docs", &format!("{admin}/docs"));
            for (label, service, key) in [
                ("metrics", "redirector", "redirector"),
                ("", "processor", "processor"),
                ("", "admin-api", "admin_api"),
            ] {
                self.row(label, &format!("{}  {service}", address(key, "metrics")));
            }
        }
        self.row("redis", address("redis", "url"));
        self.row("kafka", address("kafka", "brokers"));
        self.row("clickhouse", address("clickhouse", "url"));
        self.row("postgres", &without_password(address("postgres", "url")));
        self.row("logs", &data.join("logs").display().to_string());
        let run_json = data.join("run.json");
        self.row("for scripts", &run_json.display().to_string());
        if let Some(demo) = &running.demo {
            let login = format!("{}  {}", demo.admin_email, demo.admin_password);
            let redirector = address("redirector", "url");
            let token = &demo.postback_token;
            self.line("");
            self.row("demo login", &login);
            self.row("API key", &demo.api_key);
            self.row("a link", &demo.link_url);
            self.line("");
            self.line("  Follow the link; the address that you land on ends in the click's id. Report an order:");
            self.line(&format!(
                "    curl {redirector}/postback -d token={token} \\"
            ));
            self.line("      -d order_id=1001 -d amount=49.90 -d currency=USD -d click_id=ID");
        }
        self.line("");
        self.heading("  Ctrl-C stops everything.");
    }

    fn row(&self, label: &str, value: &str) {
        let label = self.paint("1", &format!("{label:<12}"));
        self.line(&format!("  {label} {value}"));
    }
}

/// `12.3 s`, in the steps that a person cares for.
fn seconds(duration: Duration) -> String {
    let tenths = (duration.as_millis() + 50) / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

/// `postgres://user:secret@host/db` without the secret; the whole is in `run.json`.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match rest.split_once('@') {
        Some((user, host)) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{scheme}://{user}@{host}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_off_the_screen() {
        assert_eq!(
            without_password("postgres://tributary:s3cret@127.0.0.1:5432/tributary"),
            "postgres://tributary@127.0.0.1:5432/tributary"
        );
        assert_eq!(
            without_password("redis://127.0.0.1:6379"),
            "redis://127.0.0.1:6379"
        );
        assert_eq!(without_password("127.0.0.1:9092"), "127.0.0.1:9092");
    }

    #[test]
    fn times_are_rounded_to_tenths() {
        assert_eq!(seconds(Duration::from_millis(49)), "0.0 s");
        assert_eq!(seconds(Duration::from_millis(12_345)), "12.3 s");
    }
}
