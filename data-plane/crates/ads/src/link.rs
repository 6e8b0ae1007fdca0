//! One source over all its streams: dial, call, answer, and after a break again, for ever.
//!
//! Serving goes on whatever happens here; the worst that a lost control plane does is that nothing changes.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proto::envoy::config::core::v3::Node;
use shared_xds::client::{Client, Interest, Received, Request};
use shared_xds::mark::{self, Mark};
use shared_xds::{Protocol, ResourceKind};
use stdx::backoff::Backoff;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::Channel;

use crate::connect::{ConnectError, Inbound, Response, call, describe, dial};
use crate::consumer::{Event, Raw};
use crate::core::Shared;
use crate::limit::Limit;
use crate::source::StreamSource;

/// How often a revision that came whole is looked at whether it serves.
const LOOK_WHETHER_SERVED: Duration = Duration::from_millis(10);

type Later<T> = Pin<Box<dyn Future<Output = Result<T, ConnectError>>>>;

enum Phase {
    Waiting(Instant),
    Dialing(Later<Channel>),
    Calling(Later<Inbound>),
    Open(Box<Inbound>),
}

enum Step {
    Again,
    Dialed(Result<Channel, ConnectError>),
    Called(Result<Inbound, ConnectError>),
    Received(Result<Option<Response>, Status>),
}

pub(crate) struct Link {
    source: Rc<StreamSource>,
    node: Node,
    core: Shared,
    client: Client,
    requests: Option<mpsc::UnboundedSender<Request>>,
    node_sent: bool,
    limit: Option<Limit>,
    /// The end of a revision came that does not serve yet; it is acknowledged when it does.
    unserved: bool,
    /// A request that waits until then for its turn.
    unsent: Option<Request>,
    held_until: Option<Instant>,
    backoff: Backoff,
    turn: usize,
    /// What was kept on disk waits for a sign that the server answers, or that it does not.
    kept_waits: bool,
    /// This stream had a response.
    answered: bool,
    /// The last complaint in the log: a server that says the same again at once, however often, fills no disk.
    complaint: String,
    /// No longer wanted, but the server was not told yet.
    dropped: Vec<(ResourceKind, String)>,
}

impl Phase {
    /// What happens next. May be cancelled at any time.
    async fn next(&mut self) -> Step {
        match self {
            Self::Waiting(until) => {
                tokio::time::sleep_until((*until).into()).await;
                Step::Again
            }
            Self::Dialing(dialing) => Step::Dialed(dialing.await),
            Self::Calling(calling) => Step::Called(calling.await),
            Self::Open(inbound) => Step::Received(inbound.next().await),
        }
    }
}

impl Link {
    pub(crate) fn new(source: StreamSource, node: Node, core: Shared) -> Self {
        Self {
            client: Client::new(source.protocol, source.fetch_timeout),
            backoff: Backoff::new(source.backoff_base, source.backoff_max),
            limit: source.rate_limit.map(|limit| Limit::new(limit, Instant::now())),
            unserved: false,
            unsent: None,
            held_until: None,
            source: Rc::new(source),
            node,
            core,
            requests: None,
            node_sent: false,
            turn: 0,
            kept_waits: true,
            answered: false,
            complaint: String::new(),
            dropped: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        let mut wanted = self.core.borrow().watch_wanted();
        self.sync();
        if self.source.protocol == Protocol::Delta {
            self.announce_kept();
        }
        let mut phase = self.dial();
        loop {
            self.sync();
            self.answer_end();
            self.flush();
            let serves = self.unserved.then(|| Instant::now() + LOOK_WHETHER_SERVED);
            let deadline = self.client.deadline().into_iter().chain(self.held_until).chain(serves).min();
            tokio::select! {
                // The sender lives as long as the core, which we hold.
                _ = wanted.changed() => {}
                () = until(deadline), if deadline.is_some() => self.look_at_the_clock(),
                step = phase.next() => phase = self.step(phase, step),
            }
        }
    }

    fn dial(&mut self) -> Phase {
        let (source, turn) = (self.source.clone(), self.turn);
        self.turn += 1;
        Phase::Dialing(Box::pin(async move { dial(&source, turn).await }))
    }

    fn step(&mut self, phase: Phase, step: Step) -> Phase {
        match step {
            Step::Again => self.dial(),
            Step::Dialed(Ok(channel)) => self.call(channel),
            Step::Called(Ok(inbound)) => Phase::Open(Box::new(inbound)),
            Step::Dialed(Err(error)) | Step::Called(Err(error)) => self.lost(&error.to_string()),
            Step::Received(Ok(Some(response))) => {
                self.receive(response);
                phase
            }
            Step::Received(Ok(None)) => self.lost("the server ended the stream"),
            Step::Received(Err(status)) => self.lost(&describe(&status)),
        }
    }

    /// The first requests are queued before the call, for the server may say nothing until it has one.
    fn call(&mut self, channel: Channel) -> Phase {
        let (requests, queue) = mpsc::unbounded_channel();
        self.requests = Some(requests);
        self.node_sent = false;
        self.client.connected();
        self.flush();
        let source = self.source.clone();
        Phase::Calling(Box::pin(async move { call(&source, channel, queue).await }))
    }

    fn lost(&mut self, reason: &str) -> Phase {
        self.requests = None;
        (self.unsent, self.unserved) = (None, false);
        self.client.disconnected();
        let delay = self.backoff.next_delay();
        if std::mem::take(&mut self.answered) {
            tracing::info!(reason, ?delay, "xds stream lost; the configuration stays as it is");
            let mut core = self.core.borrow_mut();
            core.stats.change(|stats| stats.connected = stats.connected.saturating_sub(1));
            core.tell(Event::Disconnected { reason: reason.to_owned() });
        } else {
            tracing::warn!(reason, ?delay, "no xds stream; the configuration stays as it is");
            self.use_kept();
        }
        // As in Envoy, a stream that ends is a failure too.
        for kind in self.source.roots.iter().chain(&self.source.named) {
            let names = self.client.interest(*kind).names.iter().cloned().collect();
            self.core.borrow_mut().failed(*kind, names);
        }
        Phase::Waiting(Instant::now() + delay)
    }

    // === requests ===

    /// Tells the state machine what the consumer wants.
    fn sync(&mut self) {
        let now = Instant::now();
        if self.source.marks && self.source.aggregated && !self.source.roots.is_empty() {
            let name = mark::name(self.source.roots.iter().copied());
            self.client.want(ResourceKind::SnapshotMark, Interest::named([name]), now);
        }
        for kind in ResourceKind::PUSH_ORDER {
            let wildcard = self.source.roots.contains(&kind);
            if !wildcard && !self.source.named.contains(&kind) {
                continue;
            }
            let names = self.core.borrow().wanted().names.get(&kind).cloned().unwrap_or_default();
            let before = &self.client.interest(kind).names;
            let fresh: Vec<String> = names.difference(before).cloned().collect();
            if !wildcard {
                self.dropped.extend(before.difference(&names).map(|name| (kind, name.clone())));
            }
            self.client.want(kind, Interest { wildcard, names }, now);
            if !self.kept_waits && !wildcard && !fresh.is_empty() {
                self.deliver_kept(kind, Some(&fresh));
            }
        }
    }

    fn flush(&mut self) {
        for (kind, name) in std::mem::take(&mut self.dropped) {
            // Wanted again before anybody was told: what we have is given out again instead.
            if !self.client.interest(kind).covers(&name) {
                self.core.borrow_mut().forget(kind, &[name]);
            }
        }
        let Some(requests) = &self.requests else {
            return;
        };
        self.held_until = None;
        while let Some(mut request) = self.unsent.take().or_else(|| self.client.poll()) {
            if let Some(limit) = &mut self.limit
                && let Err(until) = limit.take(Instant::now())
            {
                (self.unsent, self.held_until) = (Some(request), Some(until));
                return;
            }
            if !std::mem::replace(&mut self.node_sent, true) {
                match &mut request {
                    Request::Sotw(request) => request.node = Some(self.node.clone()),
                    Request::Delta(request) => request.node = Some(self.node.clone()),
                }
            }
            if requests.send(request).is_err() {
                // The stream is ending; its end is told by the other direction.
                return;
            }
        }
    }

    // === responses ===

    fn receive(&mut self, response: Response) {
        let Some(received) = response.give(&mut self.client) else {
            self.complain(None, "a type that was not asked for".to_owned());
            return;
        };
        if !std::mem::replace(&mut self.answered, true) {
            self.backoff.reset();
            let mut core = self.core.borrow_mut();
            core.stats.change(|stats| {
                stats.connected += 1;
                stats.from_disk = false;
            });
            core.tell(Event::Connected);
        }
        if received.kind == ResourceKind::SnapshotMark {
            self.on_marks(&received);
            return;
        }
        match self.source.protocol {
            // The answer is the difference to what was announced from disk.
            Protocol::Delta => self.use_kept(),
            // The answer is everything.
            Protocol::Sotw => self.drop_kept(),
        }
        let refused = self.core.borrow_mut().receive(&received);
        let refused = self.client.settle(received.kind, refused);
        if !refused.is_empty() {
            self.complain(Some(received.kind), shared_xds::client::refusal_text(&refused));
        }
        self.core.borrow().note(&received, &refused);
    }

    fn complain(&mut self, kind: Option<ResourceKind>, text: String) {
        if self.complaint != text {
            let kind = kind.map(tracing::field::display);
            tracing::warn!(kind, text, "configuration refused; the last good one stays");
            self.complaint = text;
        }
    }

    fn on_marks(&mut self, received: &Received) {
        let mut refused = Vec::new();
        for item in &received.upserts {
            let event = match Mark::unpack(&item.any) {
                Ok(Mark::Begin(revision)) => Event::Begin { revision },
                Ok(Mark::End(revision)) => {
                    // With nothing changed since the last life there was no other answer.
                    self.use_kept();
                    self.core.borrow().stats.change(|stats| stats.revision = Some(revision));
                    Event::End { revision }
                }
                Err(reason) => {
                    refused.push((item.name.clone(), reason));
                    continue;
                }
            };
            self.core.borrow_mut().tell(event);
        }
        // A newer mark answers for the one before it.
        self.unserved = refused.is_empty() && !self.core.borrow().is_published();
        let is_begin =
            received.upserts.last().is_some_and(|item| matches!(Mark::unpack(&item.any), Ok(Mark::Begin(_))));
        if is_begin || !self.unserved {
            self.unserved = false;
            self.client.settle(ResourceKind::SnapshotMark, refused);
        }
    }

    /// Acknowledges the end of a revision once it serves.
    fn answer_end(&mut self) {
        if self.unserved && self.core.borrow().is_published() {
            self.unserved = false;
            self.client.settle(ResourceKind::SnapshotMark, Vec::new());
        }
    }

    // === time ===

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        for (kind, names) in self.client.expired(now) {
            self.core.borrow_mut().expire(kind, names);
        }
        let late = self.client.timed_out(now);
        if !late.is_empty() {
            self.use_kept();
        }
        for (kind, names) in late {
            let held = self.client.held(kind);
            let is_there = |name: &String| if name.is_empty() { !held.is_empty() } else { held.contains_key(name) };
            let missing: Vec<String> = names.into_iter().filter(|name| !is_there(name)).collect();
            if missing.is_empty() || kind == ResourceKind::SnapshotMark {
                continue;
            }
            let mut core = self.core.borrow_mut();
            core.stats.kind(kind, |stats| stats.init_fetch_timeout += 1);
            let names = missing.into_iter().filter(|name| !name.is_empty()).collect();
            core.tell(Event::InitialFetchTimeout { kind, names });
        }
    }

    // === the last good configuration ===

    /// Opens the first stream with what is on disk, so that only the difference has to come.
    fn announce_kept(&mut self) {
        for kind in self.source.roots.clone() {
            let versions: Vec<_> =
                self.core.borrow().kept(kind).values().map(|raw| (raw.name.clone(), raw.version.clone())).collect();
            for (name, version) in versions {
                self.client.hold(kind, name, version);
            }
        }
    }

    /// Hands over what is on disk; once.
    fn use_kept(&mut self) {
        if !std::mem::take(&mut self.kept_waits) {
            return;
        }
        for kind in ResourceKind::PUSH_ORDER {
            if self.source.roots.contains(&kind) {
                self.deliver_kept(kind, None);
            } else if self.source.named.contains(&kind) {
                let names: Vec<String> = self.client.interest(kind).names.iter().cloned().collect();
                self.deliver_kept(kind, Some(&names));
            }
        }
        self.sync();
    }

    fn deliver_kept(&mut self, kind: ResourceKind, names: Option<&[String]>) {
        let raws: Vec<Raw> = {
            let core = self.core.borrow();
            let kept = core.kept(kind);
            match names {
                Some(names) => names.iter().filter_map(|name| kept.get(name)).cloned().collect(),
                None => kept.values().cloned().collect(),
            }
        };
        if raws.is_empty() {
            return;
        }
        tracing::info!(%kind, resources = raws.len(), "using the last good configuration from disk");
        let versions: Vec<_> = raws.iter().map(|raw| (raw.name.clone(), version(self.source.protocol, raw))).collect();
        let refused = self.core.borrow_mut().update(kind, None, raws, Vec::new());
        let bad: BTreeSet<&str> = refused.iter().map(|(name, _)| name.as_str()).collect();
        for (name, version) in versions {
            if bad.contains(name.as_str()) {
                self.client.release(kind, &name);
                self.core.borrow_mut().forget(kind, &[name]);
            } else {
                self.client.hold(kind, name, version);
            }
        }
        let answered = self.answered;
        self.core.borrow().stats.change(|stats| stats.from_disk = !answered);
    }

    fn drop_kept(&mut self) {
        if std::mem::take(&mut self.kept_waits) {
            for kind in self.source.roots.iter().chain(&self.source.named) {
                self.core.borrow_mut().drop_kept(*kind);
            }
        }
    }
}

/// The version under which the state machine compares a resource from disk.
fn version(protocol: Protocol, raw: &Raw) -> String {
    match protocol {
        Protocol::Delta => raw.version.clone(),
        Protocol::Sotw => shared_xds::Version::of(&raw.any.value).to_string(),
    }
}

async fn until(deadline: Option<Instant>) {
    let at = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
    tokio::time::sleep_until(at.into()).await;
}
