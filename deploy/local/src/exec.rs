//! Runs a command with the addresses in its environment: beside a launcher that runs already, or
//! with a system of its own for the duration.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::Error;
use crate::console::Console;
use crate::data_dir::DataDir;
use crate::engines::Addresses;
use crate::launch::{Wanted, stop};
use crate::run_file::{RunFile, Running};
use crate::signals::Signals;
use crate::supervisor::die_with_launcher;
use crate::system::System;

/// How long another launcher, which is still starting, is waited for.
const OTHER_LAUNCHER_LIMIT: Duration = Duration::from_secs(180);
const OTHER_LAUNCHER_LOOK: Duration = Duration::from_millis(200);

/// How long the command may take to end after it was told to.
const COMMAND_STOP_LIMIT: Duration = Duration::from_secs(10);

/// The exit status is the command's own, or 128 and the number of the signal that ended it.
pub(crate) async fn exec(
    data: &Path,
    wanted: &Wanted,
    command: &[OsString],
    signals: &mut Signals,
) -> Result<ExitCode, Error> {
    let data = DataDir::open(data)?;
    let mut system = match take_or_join(&data, wanted, signals).await? {
        Found::Own(system) => system,
        Found::Other(running) => return run_command(command, &data, &running, signals).await,
        Found::Nothing => return Ok(ExitCode::FAILURE),
    };
    let started = tokio::select! {
        started = wanted.start_in(&mut system) => started.map(|()| true),
        () = signals.next() => Ok(false),
    };
    let result = match started {
        Ok(true) => {
            let result = run_command(command, &data, &system.running(), signals).await;
            system.console().hush();
            result
        }
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error),
    };
    stop(system, signals).await;
    result
}

/// Whose system the command will use.
enum Found {
    Own(System),
    Other(Running),
    /// A signal came first.
    Nothing,
}

/// Takes the data folder, or waits until the launcher that has it serves what is wanted.
async fn take_or_join(
    data: &DataDir,
    wanted: &Wanted,
    signals: &mut Signals,
) -> Result<Found, Error> {
    let deadline = Instant::now() + OTHER_LAUNCHER_LIMIT;
    let mut waits = false;
    loop {
        let pid = match System::open(data.clone(), Console::stderr()) {
            Ok(system) => return Ok(Found::Own(system)),
            Err(Error::Running { pid, .. }) => pid,
            Err(error) => return Err(error),
        };
        let missing = match RunFile::read(data) {
            None => String::from("run.json"),
            Some(running) => match wanted.missing_in(&running) {
                None => return Ok(Found::Other(running)),
                Some(missing) => missing,
            },
        };
        if Instant::now() > deadline {
            return Err(Error::RunningWithout {
                data: data.root().to_path_buf(),
                pid,
                missing,
            });
        }
        if !waits {
            waits = true;
            Console::stderr().line(&format!(
                "Waiting for the launcher with pid {pid} to be ready"
            ));
        }
        tokio::select! {
            () = sleep(OTHER_LAUNCHER_LOOK) => {}
            () = signals.next() => return Ok(Found::Nothing),
        }
    }
}

async fn run_command(
    command: &[OsString],
    data: &DataDir,
    running: &Running,
    signals: &mut Signals,
) -> Result<ExitCode, Error> {
    let addresses = Addresses::of(running).map_err(|engine| Error::RunningWithout {
        data: data.root().to_path_buf(),
        pid: running.launcher_pid.to_string(),
        missing: engine,
    })?;
    let Some((program, arguments)) = command.split_first() else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut process = Command::new(program);
    process
        .args(arguments)
        .envs(addresses.environment())
        .env("TRIBUTARY_RUN_JSON", RunFile::path_in(data))
        .kill_on_drop(true);
    die_with_launcher(&mut process, Signal::SIGKILL);
    let mut process = process.spawn().map_err(Error::io(format!(
        "start the command {}",
        program.display()
    )))?;
    tokio::select! {
        status = process.wait() => return exit_code(status),
        () = signals.next() => {}
    }
    // Still running, so the id is its own.
    if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if let Ok(status) = timeout(COMMAND_STOP_LIMIT, process.wait()).await {
        return exit_code(status);
    }
    let _ = process.kill().await;
    exit_code(process.wait().await)
}

fn exit_code(status: std::io::Result<ExitStatus>) -> Result<ExitCode, Error> {
    let status = status.map_err(Error::io("wait for the command"))?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    ))
}
