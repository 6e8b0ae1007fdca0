//! `weir up FILE`: a control plane and proxies as children of this process, and a file they follow.
//!
//! The first configuration must be right, or nothing is started. Later ones that are wrong are told about, and the last good
//! one keeps serving. All children end with us.

pub(crate) mod child;
mod demo;
mod fleet;
pub(crate) mod http;

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cp_model::Model;
use proto::weir::management::v1 as pb;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;
use crate::files::{self, Files};
use crate::flags::{Flags, Up};
use crate::offline::{self, many};
use crate::out::{Out, Paint};
use crate::remote::{apply, converge, status};
use crate::up::fleet::Fleet;

/// How often the file is read.
const EVERY: Duration = Duration::from_millis(300);
/// How long the proxies may take to get a configuration.
const CONVERGE_BOUND: Duration = Duration::from_secs(15);

pub(crate) async fn run(given: &Up, flags: &Flags, out: &Out) -> Result<u8, Failure> {
    let paths = [given.file.clone()];
    if given.file == Path::new("-") {
        return Err(Failure::usage("`weir up` follows a file; it cannot follow stdin"));
    }
    let files = files::read(&paths)?;
    let compiled = offline::compile(&files).map_err(Failure::invalid)?;
    out.warnings(&compiled.checked.warnings);
    let programs = fleet::programs()?;
    let model = &compiled.checked.model;
    ports_are_free(model)?;
    let mut signals = Signals::new()?;
    let origins = if given.demo { demo::origins(model).await? } else { Vec::new() };
    let state = State::new(given)?;
    let groups = groups(model);
    let fleet = tokio::select! {
        started = Fleet::start(given, &flags.global, &programs, &state.path, &groups) => started?,
        () = signals.next() => return Ok(0),
    };
    let mut up = Running { paths: &paths, out, fleet, applied: Files::default() };
    let result = tokio::select! {
        result = up.go(given, files, model) => result,
        () = signals.next() => {
            out.note("stopping");
            Ok(0)
        }
    };
    tokio::select! {
        () = up.fleet.stop() => (),
        // A second ctrl-C: the children are killed as their handles go.
        () = signals.next() => (),
    }
    drop(origins);
    result
}

struct Running<'a> {
    paths: &'a [PathBuf],
    out: &'a Out,
    fleet: Fleet,
    /// What was sent last, right or wrong.
    applied: Files,
}

impl Running<'_> {
    async fn go(&mut self, given: &Up, files: Files, model: &Model) -> Result<u8, Failure> {
        let out = self.out;
        self.apply(files, "weir up").await?;
        self.nodes_are_there().await?;
        self.introduce(model, &given.file).await?;
        if given.demo {
            let failed = demo::run(self, given, model).await?;
            if given.once {
                return Ok(u8::from(failed));
            }
            out.note(&format!(
                "edit {} and save it: the proxies follow. Ctrl-C stops everything.",
                given.file.display()
            ));
        }
        self.follow().await
    }

    /// Applies these files as the whole configuration; how long until every proxy had it.
    async fn apply(&mut self, files: Files, message: &str) -> Result<(), Failure> {
        let begin = Instant::now();
        let request = pb::ApplyRequest {
            change: Some(files.change(true, "")),
            validate_only: false,
            etag: String::new(),
            message: message.to_owned(),
        };
        self.applied = files;
        let client = &mut self.fleet.client;
        let applied = client.config.apply(client.request(request)).await.map_err(|s| client.failure(&s))?.into_inner();
        let revision = applied.revision.as_ref().map_or(0, |r| r.id);
        if applied.changes.is_empty() {
            self.out.note(&format!("revision {revision}: nothing changed"));
            return Ok(());
        }
        let nodes = converge::wait(client, revision, CONVERGE_BOUND, |_| ()).await?;
        let took = format!("{:.0?}", begin.elapsed());
        let where_it_is = match nodes {
            0 => String::new(),
            n => {
                format!(", taken by {} in {took}", if n == 1 { "the proxy".to_owned() } else { format!("{n} proxies") })
            }
        };
        let changes = format!("{}: {}", many(applied.changes.len(), "change"), apply::short(&applied.changes));
        let revision = self.out.paint_note(&format!("revision {revision}"), Paint::Good);
        self.out.note(&format!("{revision}: {changes}{where_it_is}"));
        Ok(())
    }

    /// Waits until every proxy is connected and has the newest revision.
    async fn nodes_are_there(&mut self) -> Result<(), Failure> {
        let end = tokio::time::Instant::now() + CONVERGE_BOUND;
        loop {
            if let Some(failure) = self.fleet.has_ended() {
                return Err(failure);
            }
            let client = &mut self.fleet.client;
            let mut connected = 0;
            let seen = |nodes: &[pb::Node]| connected = nodes.iter().filter(|n| n.connected).count();
            converge::wait(client, 1, CONVERGE_BOUND, seen).await?;
            if connected >= self.fleet.proxies() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                let all = self.fleet.proxies();
                return Err(Failure::NotConverged(format!("of {all} proxies only {connected} connected in time")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn introduce(&mut self, model: &Model, file: &Path) -> Result<(), Failure> {
        let out = self.out;
        let client = &mut self.fleet.client;
        let request = client.request(pb::ListNodesRequest::default());
        let nodes = client.fleet.list_nodes(request).await.map_err(|s| client.failure(&s))?.into_inner().nodes;
        status::show(&nodes, out)?;
        for listener in &model.listeners {
            out.note(&format!("listener {} on {}", listener.name, listener.address));
        }
        let admins: Vec<String> = self.fleet.admins.iter().map(|a| format!("http://{a}")).collect();
        out.note(&format!("admin    {}", admins.join(" ")));
        out.note(&format!("control  weir --server http://{} status", self.fleet.management));
        out.note(&format!("following {}", file.display()));
        Ok(())
    }

    /// Reads the file again and again, and applies what is new. Ends only when a child does.
    async fn follow(&mut self) -> Result<u8, Failure> {
        let mut told = String::new();
        loop {
            tokio::time::sleep(EVERY).await;
            if let Some(failure) = self.fleet.has_ended() {
                return Err(failure);
            }
            let files = match files::read(self.paths) {
                Ok(files) => files,
                // Editors replace files: for a moment there may be none.
                Err(failure) => {
                    let words = format!("{failure:?}");
                    if told != words {
                        failure.tell(self.out);
                        told = words;
                    }
                    continue;
                }
            };
            told.clear();
            if files == self.applied {
                continue;
            }
            if let Err(failure) = self.apply(files, "file changed").await {
                failure.tell(self.out);
                if matches!(failure, Failure::Invalid { .. } | Failure::Refused { .. }) {
                    self.out.note("the last good configuration keeps serving");
                }
            }
        }
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let handler = |kind| signal(kind).map_err(|e| Failure::refused(format!("cannot handle signals: {e}")));
        Ok(Signals { interrupt: handler(SignalKind::interrupt())?, terminate: handler(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => (), _ = self.terminate.recv() => () }
    }
}

/// Where revisions and logs are kept.
struct State {
    path: PathBuf,
    /// Removes the directory at the end.
    _temporary: Option<tempfile::TempDir>,
}

impl State {
    fn new(given: &Up) -> Result<State, Failure> {
        let cannot = |e: std::io::Error| Failure::refused(format!("cannot make a state directory: {e}"));
        if let Some(path) = &given.state_dir {
            std::fs::create_dir_all(path).map_err(cannot)?;
            let path = std::fs::canonicalize(path).map_err(cannot)?;
            return Ok(State { path, _temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("weir-up-").tempdir().map_err(cannot)?;
        Ok(State { path: temporary.path().to_owned(), _temporary: Some(temporary) })
    }
}

/// The node groups that listeners name; a fleet of proxies is started for each of them. None: one fleet for everything.
fn groups(model: &Model) -> Vec<String> {
    let named: BTreeSet<&String> = model.listeners.iter().flat_map(|l| &l.groups).collect();
    named.into_iter().cloned().collect()
}

/// Refused before anything starts: another program (or another `weir up`) has the port. Proxies could share it unseen.
fn ports_are_free(model: &Model) -> Result<(), Failure> {
    let mut tried = BTreeSet::new();
    for listener in &model.listeners {
        let datagrams = matches!(listener.protocol, cp_model::listener::Protocol::Udp { .. });
        let bound = match datagrams {
            _ if !tried.insert((datagrams, listener.address)) => continue,
            true => UdpSocket::bind(listener.address).map(drop),
            false => TcpListener::bind(listener.address).map(drop),
        };
        if let Err(e) = bound {
            let message =
                format!("{}: listeners.{}: cannot listen on {}: {e}", listener.place, listener.name, listener.address);
            let hint = match e.kind() {
                std::io::ErrorKind::AddrInUse => "another program listens there; stop it, or change the address",
                std::io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; use another port",
                _ => "change the address",
            };
            return Err(Failure::Refused { message, hint: Some(hint.to_owned()) });
        }
    }
    Ok(())
}
