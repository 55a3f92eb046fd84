//! One child process: started, awaited until it is healthy, restarted when it ends, stopped when asked.
//!
//! - It dies with the launcher, however that ends (see [`die_with_launcher`]).
//! - It is in a process group of its own: Ctrl-C in a terminal reaches the launcher alone.
//! - What it prints is appended to `logs/NAME.log`.
//! - A first start that fails is tried a few times (a port may be lost to another program, a killed
//!   predecessor may need a moment to let go of its files) and then is an error. Once it has been
//!   healthy, it is restarted for ever, with pauses that grow up to a limit.
//! - Whoever wants it to stay away for a while, to see what the others make of it, locks the file
//!   `hold/NAME` of the data folder: it is not restarted before the lock is gone.

use std::fmt::Debug;
use std::fs::{File, TryLockError};
use std::future::Future;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use tokio::process::{Child as Process, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::data_dir::DataDir;
use crate::ports::Port;
use crate::run_file::Entry;

/// How often a child that has never been healthy is started before that is an error.
const FIRST_STARTS: u32 = 4;

/// The pauses between health probes grow from the first to the second: what starts quickly is
/// noticed quickly, what takes its time (a recovery) is not pestered.
const FIRST_PROBE_PAUSE: Duration = Duration::from_millis(20);
const LAST_PROBE_PAUSE: Duration = Duration::from_millis(300);
/// The longest that one probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// The longest pause before a child is restarted, in milliseconds, unless a person asks for another.
pub(crate) const LONGEST_PAUSE_MS: u64 = 30_000;

/// Where a child's restart can be held off, in the data folder; and how often that is looked at.
const HOLD_FOLDER: &str = "hold";
const HOLD_LOOK: Duration = Duration::from_millis(100);

/// How a child is asked to end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    Signal(Signal),
    /// It serves until its standard input ends.
    CloseInput,
}

/// What the supervisor has to know about a child.
pub(crate) trait Program: Debug + Send + Sync + 'static {
    /// The name of its log and in messages.
    fn name(&self) -> &'static str;

    /// Where it stands in `run.json`: its addresses, without the process id.
    fn entry(&self) -> Entry;

    /// The ports that it will listen on.
    fn ports(&mut self) -> Vec<&mut Port>;

    /// Makes what must stand before it starts; called before each start.
    fn prepare(&self) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }

    fn command(&self) -> Command;

    /// One look at whether the process `pid` answers and is ready; the error says what is amiss.
    fn probe(&self, pid: u32) -> impl Future<Output = Result<(), String>> + Send;

    /// The longest that it may take to become healthy.
    fn start_limit(&self) -> Duration;

    fn stop(&self) -> Stop {
        Stop::Signal(Signal::SIGTERM)
    }

    /// The longest that it may take to stop before it is killed.
    fn stop_limit(&self) -> Duration;

    /// What the kernel sends it when the launcher is killed.
    fn death_signal(&self) -> Signal {
        Signal::SIGKILL
    }
}

/// What happened to a child, for the person and for `run.json`.
#[derive(Debug)]
pub(crate) enum Event {
    /// It runs, and is not ready yet.
    Started {
        pid: u32,
    },
    Ready {
        entry: Entry,
        after: Duration,
    },
    /// It ended without being asked to.
    Exited {
        status: String,
        uptime: Duration,
        restart_in: Duration,
    },
    Stopped {
        after: Duration,
    },
    /// It did not stop in time, or the person would not wait.
    Killed,
}

/// Who is told. Called from the launcher's one thread; must not block for long.
pub(crate) trait Observer: Debug + Send + Sync + 'static {
    fn event(&self, name: &'static str, event: Event);
}

/// What all children of one launcher share.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) data: DataDir,
    pub(crate) observer: Arc<dyn Observer>,
    /// Ends all patience: children that are being stopped are killed.
    pub(crate) kill: CancellationToken,
    /// The longest pause before a child is restarted.
    pub(crate) longest_pause: Duration,
}

/// A child under supervision.
#[derive(Debug)]
pub(crate) struct Child {
    name: &'static str,
    stop: CancellationToken,
    first_start: watch::Receiver<bool>,
    task: JoinHandle<Result<(), Error>>,
}

impl Child {
    /// Begins to start it. Only from the launcher's one thread, because the kernel ties a child's
    /// life to the thread that started it.
    pub(crate) fn spawn(program: impl Program, context: &Context) -> Self {
        let stop = CancellationToken::new();
        let (is_up, first_start) = watch::channel(false);
        Self {
            name: program.name(),
            stop: stop.clone(),
            first_start,
            task: tokio::spawn(supervise(program, context.clone(), stop, is_up)),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Waits until it has been healthy once, or says why it can't be.
    pub(crate) async fn ready(&mut self) -> Result<(), Error> {
        if self.first_start.wait_for(|is_up| *is_up).await.is_ok() {
            return Ok(());
        }
        // The supervisor gave up.
        match (&mut self.task).await {
            Ok(result) => result,
            Err(panicked) => Err(Error::io(format!("supervise {}", self.name))(
                std::io::Error::other(panicked),
            )),
        }
    }

    /// Asks it to end and waits for that.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if !self.task.is_finished() {
            // Its failure was reported when it happened.
            let _ = self.task.await;
        }
    }
}

/// The pauses before restarts: doubling while a child keeps failing, short again after it ran well.
#[derive(Debug)]
struct BackOff {
    next: Duration,
    longest: Duration,
}

impl BackOff {
    const FIRST: Duration = Duration::from_millis(500);
    /// A child that ran this long had recovered.
    const RAN_WELL: Duration = Duration::from_secs(60);

    const fn new(longest: Duration) -> Self {
        Self {
            next: Self::FIRST,
            longest,
        }
    }

    fn after(&mut self, uptime: Duration) -> Duration {
        if uptime >= Self::RAN_WELL {
            self.next = Self::FIRST;
        }
        let pause = self.next.min(self.longest);
        self.next = (self.next * 2).min(self.longest);
        pause
    }
}

/// How one life of a child ended.
enum End {
    /// As asked.
    Stopped,
    /// By itself, or killed because it never became healthy.
    Exited { status: String, tail: String },
}

async fn supervise(
    mut program: impl Program,
    context: Context,
    stop: CancellationToken,
    is_up: watch::Sender<bool>,
) -> Result<(), Error> {
    let name = program.name();
    let mut back_off = BackOff::new(context.longest_pause);
    let mut starts = 0;
    loop {
        starts += 1;
        let begun = Instant::now();
        let end = tokio::select! {
            prepared = program.prepare() => match prepared {
                Ok(()) => live(&program, &context, &stop, &is_up, begun).await,
                Err(error) => Err(error),
            },
            () = stop.cancelled() => return Ok(()),
        };
        let was_up = *is_up.borrow();
        let (status, tail) = match end {
            Ok(End::Stopped) => return Ok(()),
            Ok(End::Exited { status, tail }) => (status, tail),
            Err(error) if was_up => (error.to_string(), String::new()),
            Err(error) => return Err(error),
        };
        let pause = back_off.after(begun.elapsed());
        if was_up {
            context.observer.event(
                name,
                Event::Exited {
                    status,
                    uptime: begun.elapsed(),
                    restart_in: pause,
                },
            );
        } else if starts == FIRST_STARTS {
            return Err(Error::Start {
                name,
                why: status,
                tail,
                log: context.data.log_path(name),
            });
        } else {
            for port in program.ports() {
                port.move_if_lost()?;
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
        while is_held(&context.data, name) {
            tokio::select! {
                () = sleep(HOLD_LOOK) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}

/// Whether somebody keeps `name` from being restarted. A lock, because the kernel takes it away with its
/// holder: a drill that was killed can't leave an engine away for ever.
fn is_held(data: &DataDir, name: &str) -> bool {
    File::open(data.join(HOLD_FOLDER).join(name))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// One life: from spawn until the process is gone. `begun`: when its preparation began.
async fn live(
    program: &impl Program,
    context: &Context,
    stop: &CancellationToken,
    is_up: &watch::Sender<bool>,
    begun: Instant,
) -> Result<End, Error> {
    let name = program.name();
    let (log, log_start) = context.data.open_log(name)?;
    let exited = |status: String| End::Exited {
        status,
        tail: context.data.log_tail(name, log_start),
    };
    let also_log = log.try_clone().map_err(Error::io("share a log"))?;
    let mut command = program.command();
    command
        .stdin(match program.stop() {
            Stop::Signal(_) => Stdio::null(),
            Stop::CloseInput => Stdio::piped(),
        })
        .stdout(log)
        .stderr(also_log)
        .process_group(0)
        .kill_on_drop(true);
    die_with_launcher(&mut command, program.death_signal());
    let mut process = command
        .spawn()
        .map_err(Error::io(format!("start {name}")))?;
    // Taken out, because waiting for a process closes an input that it still holds.
    let input = process.stdin.take();
    let pid = process.id().unwrap_or_default();
    context.observer.event(name, Event::Started { pid });

    let healthy = tokio::select! {
        status = process.wait() => return Ok(exited(describe(status))),
        healthy = timeout(program.start_limit(), until_healthy(program, pid)) => healthy,
        () = stop.cancelled() => {
            end(program, context, process, input).await;
            return Ok(End::Stopped);
        }
    };
    if healthy.is_err() {
        let last = match program.probe(pid).await {
            Ok(()) => String::from("it was too slow"),
            Err(amiss) => amiss,
        };
        let _ = process.kill().await;
        let limit = program.start_limit().as_secs();
        return Ok(exited(format!("not healthy after {limit} s: {last}")));
    }
    is_up.send_replace(true);
    let entry = program.entry().with_pid(pid);
    let after = begun.elapsed();
    context.observer.event(name, Event::Ready { entry, after });

    tokio::select! {
        status = process.wait() => Ok(exited(describe(status))),
        () = stop.cancelled() => {
            end(program, context, process, input).await;
            Ok(End::Stopped)
        }
    }
}

async fn until_healthy(program: &impl Program, pid: u32) {
    let mut pause = FIRST_PROBE_PAUSE;
    loop {
        if let Ok(Ok(())) = timeout(PROBE_LIMIT, program.probe(pid)).await {
            return;
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LAST_PROBE_PAUSE);
    }
}

/// Stops a running process, gently while there is time.
async fn end(
    program: &impl Program,
    context: &Context,
    mut process: Process,
    input: Option<ChildStdin>,
) {
    let asked = Instant::now();
    match program.stop() {
        Stop::CloseInput => drop(input),
        Stop::Signal(signal) => {
            // The id is gone once the process was waited for, so it can't be another's.
            if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
    }
    let in_time = tokio::select! {
        waited = timeout(program.stop_limit(), process.wait()) => waited.is_ok(),
        () = context.kill.cancelled() => false,
    };
    let event = if in_time {
        Event::Stopped {
            after: asked.elapsed(),
        }
    } else {
        let _ = process.kill().await;
        Event::Killed
    };
    context.observer.event(program.name(), event);
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended with {status}"),
        Err(error) => format!("could not be waited for: {error}"),
    }
}

/// Has the kernel send `signal` to the child when the thread that starts it ends.
///
/// Also used for commands that the launcher runs in the foreground.
#[allow(unsafe_code)] // The one call that std marks unsafe: code between fork and exec.
pub(crate) fn die_with_launcher(command: &mut Command, signal: Signal) {
    let launcher = Pid::this();
    let set = move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
        // The launcher may have ended before the kernel was told.
        if getppid() == launcher {
            Ok(())
        } else {
            Err(std::io::Error::from(nix::Error::ESRCH))
        }
    };
    // SAFETY: between fork and exec only async-signal-safe functions are allowed. `set` makes two
    // plain system calls (prctl, getppid), allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_start_over_after_a_good_run() {
        let mut back_off = BackOff::new(Duration::from_millis(LONGEST_PAUSE_MS));
        let brief = Duration::from_secs(1);
        let pauses: Vec<u128> = (0..9).map(|_| back_off.after(brief).as_millis()).collect();
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
        );
        assert_eq!(back_off.after(BackOff::RAN_WELL), BackOff::FIRST);
        assert_eq!(back_off.after(brief), BackOff::FIRST * 2);

        let longest = Duration::from_millis(700);
        let mut back_off = BackOff::new(longest);
        let pauses: Vec<u128> = (0..3).map(|_| back_off.after(brief).as_millis()).collect();
        assert_eq!(pauses, [500, 700, 700]);
        assert_eq!(BackOff::new(Duration::ZERO).after(brief), Duration::ZERO);
    }

    #[test]
    fn a_hold_lasts_as_long_as_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        assert!(!is_held(&data, "kafka"), "no file");
        let hold = File::create(data.folder(HOLD_FOLDER).unwrap().join("kafka")).unwrap();
        assert!(!is_held(&data, "kafka"), "a file that nobody locks");
        hold.lock().unwrap();
        assert!(is_held(&data, "kafka"));
        assert!(!is_held(&data, "redis"));
        drop(hold);
        assert!(!is_held(&data, "kafka"));
    }
}
