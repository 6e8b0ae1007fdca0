//! The control thread: configuration, deadlines, signals, the end. It never touches a request.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dp_proxy::{Budget, WorkerSetup};
use dp_snapshot::{Engine, Kind, Snapshot};
use dp_upstream::dns::cache::Work;
use dp_upstream::refresh::Bell;
use shared_config::bootstrap::Bootstrap;
use shared_telemetry::Registry;
use stdx::drain::{Drain, Phase};
use stdx::live::Live;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What the rest of the process asks of the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Drain; the second time, end now.
    ShutDown,
    /// Read files and certificates again.
    Reload,
    /// Open access logs again.
    ReopenLogs,
}

/// The engine, for those on the control thread that change it.
#[derive(Clone)]
pub(crate) struct SharedEngine {
    engine: Arc<Mutex<Engine>>,
    /// Something changed that may move the next deadline, or what has to be resolved.
    changed: watch::Sender<()>,
}

/// The control thread before it runs.
pub(crate) struct Control {
    pub(crate) engine: SharedEngine,
    pub(crate) live: Live<Snapshot>,
    pub(crate) bell: Bell,
    pub(crate) drain: Drain,
    pub(crate) workers: usize,
    /// The most connections of clients.
    pub(crate) budget: Option<Arc<Budget>>,
    pub(crate) drain_time: Duration,
    pub(crate) signals: bool,
    pub(crate) registry: Registry,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    pub(crate) logs: dp_observe::access_log::writer::LogWriter,
    /// Caches of names that have to be kept up to date.
    pub(crate) names: mpsc::UnboundedReceiver<Work>,
}

/// What is still to come before the first configuration is complete.
#[derive(Debug)]
pub(crate) struct Progress {
    waiting: Mutex<BTreeSet<Kind>>,
}

impl Progress {
    pub(crate) fn new(bootstrap: &Bootstrap) -> Self {
        let listeners = bootstrap.lds.as_ref().map(|_| Kind::Listener);
        let clusters = bootstrap.cds.as_ref().map(|_| Kind::Cluster);
        Self { waiting: Mutex::new(listeners.into_iter().chain(clusters).collect()) }
    }

    /// The first answer for a kind came, or will not come.
    pub(crate) fn came(&self, kind: Kind) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&kind);
    }

    /// The kinds that are still to come.
    pub(crate) fn waiting(&self) -> Vec<Kind> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// How often things without a deadline of their own are looked after.
const TICK: Duration = Duration::from_secs(1);

// === impl SharedEngine ===

impl SharedEngine {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine: Arc::new(Mutex::new(engine)), changed: watch::Sender::new(()) }
    }

    /// A panic while it was held leaves the last published snapshot in place, so a poisoned lock is still good.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles and publishes what can be.
    pub(crate) fn settle(&self) {
        for (kind, name, reason) in self.lock().settle(Instant::now()).refused {
            tracing::warn!(?kind, name, reason, "a resource was refused; the version before it stays");
        }
        self.announce();
    }

    /// Tells those who follow that something changed.
    pub(crate) fn announce(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

// === impl Control ===

impl Control {
    /// Runs until the proxy has drained. `sources` fetch the configuration and answer admin requests.
    pub(crate) fn run(self, sources: impl Future<Output = ()>) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())?;
        let workers = self.start_workers()?;
        runtime.block_on(async {
            tokio::pin!(sources);
            tokio::select! {
                () = self.serve() => {}
                // Sources fetch and answer for ever.
                () = &mut sources => {}
            }
        });
        for worker in workers {
            // A worker that panicked has said so; the others are waited for all the same.
            let _ = worker.join();
        }
        Ok(())
    }

    fn start_workers(&self) -> std::io::Result<Vec<JoinHandle<()>>> {
        let published = self.engine.lock().published();
        (1..=self.workers)
            .map(|shard| {
                let setup = WorkerSetup {
                    shard,
                    snapshots: self.live.reader(),
                    published: published.clone(),
                    drain: self.drain.clone(),
                    budget: self.budget.clone(),
                };
                std::thread::Builder::new().name(format!("worker-{shard}")).spawn(move || {
                    if let Err(error) = dp_proxy::run(setup) {
                        tracing::error!(shard, %error, "a worker could not start");
                    }
                })
            })
            .collect()
    }

    /// Looks after everything until the end.
    async fn serve(mut self) {
        if self.signals {
            tokio::task::spawn_local(crate::signals::follow(self.commands.clone()));
        }
        tokio::task::spawn_local(crate::health_checks::follow(self.engine.clone(), self.logs.clone()));
        let published = self.engine.lock().published();
        tokio::task::spawn_local(crate::refresh::follow(self.live.clone(), self.bell.clone(), published.clone()));
        tokio::task::spawn_local(crate::endpoint_reports::follow(self.live.clone(), published));
        tokio::task::spawn_local(crate::names::follow(self.engine.clone(), self.registry.clone()));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut changes = self.engine.changes();
        let mut caches = JoinSet::new();
        loop {
            let deadline = self.engine.lock().next_deadline();
            tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(Command::ShutDown) => return self.shut_down().await,
                    Some(Command::Reload) => self.reload(true),
                    Some(Command::ReopenLogs) => {
                        self.logs.reopen();
                    }
                    None => return self.drain.advance(Phase::Now),
                },
                Some(work) = self.names.recv() => {
                    caches.spawn_local(work.run());
                }
                Some(_) = caches.join_next() => {}
                _ = tick.tick() => self.reload(false),
                _ = changes.changed() => {}
                () = until(deadline) => self.engine.settle(),
            }
        }
    }

    fn reload(&self, all: bool) {
        let mut engine = self.engine.lock();
        engine.sweep(Instant::now());
        let reread = engine.reload_files(all);
        drop(engine);
        if reread {
            self.engine.settle();
        }
    }

    /// No new connections, `connection: close` and GOAWAY; then waits for what runs, at most the drain time.
    async fn shut_down(mut self) {
        tracing::info!(running = self.drain.running(), "draining");
        self.drain.advance(Phase::Draining);
        self.engine.lock().drain_listeners(false);
        tokio::select! {
            () = self.drain.idle() => {}
            () = tokio::time::sleep(self.drain_time) => tracing::warn!("the drain time is over"),
            () = async { while self.inbox.recv().await.is_some_and(|command| command != Command::ShutDown) {} } => {}
        }
        self.drain.advance(Phase::Now);
        dp_observe::access_log::writer::flush();
        self.logs.sync(Duration::from_secs(5));
    }
}

/// Waits for a moment, or for ever.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
