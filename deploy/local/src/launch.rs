//! One launcher's life: start what is wanted, serve until a signal, stop in order.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::console::Console;
use crate::data_dir::DataDir;
use crate::engines::{self, Addresses, EngineOptions};
use crate::run_file::Running;
use crate::secrets::Secrets;
use crate::services::{self, ServiceOptions};
use crate::signals::Signals;
use crate::system::System;
use crate::{Error, demo};

/// What a launcher starts.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) engines: EngineOptions,
    /// `None`: the engines alone.
    pub(crate) services: Option<ServiceOptions>,
    /// The longest pause before something that died is started again.
    pub(crate) longest_pause: Duration,
}

impl Wanted {
    /// Starts it and waits until all is ready. May be dropped on the way: `system` knows what runs.
    pub(crate) async fn start_in(&self, system: &mut System) -> Result<(), Error> {
        system.set_longest_pause(self.longest_pause);
        let secrets = Secrets::load_or_create(system.data())?;
        system.console().heading("Starting the engines");
        engines::start_in(system, &self.engines, &secrets).await?;
        let Some(options) = &self.services else {
            return Ok(());
        };
        system.console().heading("Starting the services");
        let addresses = system.addresses()?;
        let urls = services::start_in(system, options, &secrets, &addresses).await?;
        system.console().heading("Setting up the demo");
        let access =
            demo::set_up(system.data(), &secrets, &urls.admin_api, &urls.redirector).await?;
        system.set_demo(access)
    }

    /// What another launcher's `run.json` lacks.
    pub(crate) fn missing_in(&self, running: &Running) -> Option<String> {
        if let Err(engine) = Addresses::of(running) {
            return Some(engine);
        }
        let lacks_services = running.services.len() < 3 || running.demo.is_none();
        (self.services.is_some() && lacks_services).then(|| String::from("the services"))
    }
}

/// Starts what is wanted and serves until a signal.
pub(crate) async fn serve(
    data: &Path,
    wanted: &Wanted,
    signals: &mut Signals,
) -> Result<ExitCode, Error> {
    let mut system = System::open(DataDir::open(data)?, Console::stdout())?;
    let started = tokio::select! {
        started = wanted.start_in(&mut system) => started.map(|()| true),
        () = signals.next() => Ok(false),
    };
    if matches!(started, Ok(true)) {
        let console = system.console();
        console.table(&system.running(), system.data().root());
        signals.next().await;
    }
    stop(system, signals).await;
    started.map(|_| ExitCode::SUCCESS)
}

/// Stops in order; a second signal ends the patience.
pub(crate) async fn stop(mut system: System, signals: &mut Signals) {
    if !system.is_empty() {
        system
            .console()
            .heading("Stopping (Ctrl-C again kills at once)");
    }
    let kill_switch = system.kill_switch();
    let stopping = system.stop();
    tokio::pin!(stopping);
    tokio::select! {
        () = &mut stopping => {}
        () = signals.next_press() => {
            kill_switch.cancel();
            stopping.await;
        }
    }
}
