//! The command line: without a subcommand the service, with one a person's tool.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Subcommand};

use crate::config::Config;
use crate::dead_letters_command::DeadLettersCommand;
use crate::ledger_command::LedgerCommand;
use crate::replay_command::ReplayCommand;

/// What the program was asked to be.
#[derive(Debug)]
pub enum Cli {
    Service(Box<Config>),
    Tool(Box<Tool>),
}

/// A person's tool.
#[derive(Debug, Subcommand)]
pub enum Tool {
    DeadLetters(DeadLettersCommand),
    Replay(ReplayCommand),
    Ledger(LedgerCommand),
}

impl Cli {
    /// Reads the arguments and the environment; says what is wrong with them and ends the process.
    #[must_use]
    pub fn parse() -> Self {
        Self::try_parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// # Errors
    /// When an argument or a setting is missing or can't be read, and when help was asked for.
    pub fn try_parse_from<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let tools = tools();
        // A tool needs its own settings and nothing else: the service's are not even looked at, so one in
        // the environment that is wrong does no harm.
        let is_tool = (arguments.get(1))
            .is_some_and(|word| tools.get_subcommands().any(|tool| word == tool.get_name()));
        let mut command = if is_tool {
            tools
        } else {
            // A service's setting before the subcommand would be ignored, so it is refused.
            Config::command()
                .subcommands(tools.get_subcommands().cloned())
                .args_conflicts_with_subcommands(true)
        };
        let matches = command.try_get_matches_from_mut(arguments)?;
        let cli = match matches.subcommand_name() {
            Some(_) => Tool::from_arg_matches(&matches).map(|tool| Self::Tool(Box::new(tool))),
            None => {
                Config::from_arg_matches(&matches).map(|config| Self::Service(Box::new(config)))
            }
        };
        cli.map_err(|error| error.format(&mut command))
    }
}

/// All tools. Their settings may stand behind what they are to do.
fn tools() -> clap::Command {
    let tools = Tool::augment_subcommands(clap::Command::new("processor"));
    tools.mut_subcommands(|tool| match tool.has_subcommands() {
        true => tool.mut_args(|setting| setting.global(true)),
        false => tool,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["processor"], arguments].concat())
    }

    #[test]
    fn the_service_needs_its_settings_and_the_command_only_kafka() {
        let ring = format!("1:{}", "ab".repeat(32));
        let keys = ["--click-token-keys", &ring, "--sealing-keys", &ring];
        assert!(matches!(parsed(&keys).unwrap(), Cli::Service(_)));
        let brokers = ["dead-letters", "list", "--kafka-brokers", "kafka:1"];
        let Cli::Tool(tool) = parsed(&brokers).unwrap() else {
            panic!("not the service");
        };
        let Tool::DeadLetters(command) = *tool else {
            panic!("not another tool");
        };
        assert_eq!(command.kafka.kafka_brokers, "kafka:1");
        // It would be ignored there.
        assert!(parsed(&["--kafka-brokers", "kafka:1", "dead-letters", "list"]).is_err());
    }

    #[test]
    fn a_replay_names_its_period_and_may_name_a_model() {
        let replay = [
            "replay",
            "--from",
            "2026-01-01T00:00:00Z",
            "--to",
            "2026-02-01T00:00:00Z",
        ];
        let keys = format!("1:{}", "ab".repeat(32));
        let with = |more: &[&str]| {
            parsed(&[&replay, ["--click-token-keys", &keys].as_slice(), more].concat()).is_ok()
        };
        assert!(with(&["--dry-run"]));
        assert!(with(&["--model", "linear", "--program", "3"]));
        assert!(!with(&["--model", "guess"]));
        assert!(parsed(&["replay", "--click-token-keys", &keys]).is_err());
        assert!(parsed(&["ledger", "check", "--database-url", "postgres://x"]).is_ok());
    }

    #[test]
    fn a_redrive_names_what_it_sends() {
        let redrive = ["dead-letters", "redrive", "--topic", "clicks"];
        let with = |more: &[&str]| parsed(&[&redrive, more].concat()).is_ok();
        assert!(with(&["--all"]));
        assert!(with(&["--at", "0:12", "0:13", "--dry-run"]));
        for wrong in [
            [].as_slice(),
            &["--all", "--at", "0:12"],
            &["--at", "12"],
            &["--at", "0:-1"],
        ] {
            assert!(!with(wrong), "{wrong:?}");
        }
        assert!(parsed(&["dead-letters", "list", "--limit", "0"]).is_err());
        assert!(parsed(&["dead-letters", "list", "--since", "yesterday"]).is_err());
        assert!(parsed(&["dead-letters", "show", "orders", "0", "1"]).is_err());
    }
}
