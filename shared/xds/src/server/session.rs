//! One stream of a server: requests and snapshots in, responses out, in an order that breaks nothing on the way.
//!
//! New things go before what names them, removals after everything new. Routes and listeners that changed wait for the
//! client to acknowledge the clusters, and clusters are removed when routes and listeners were acknowledged; both with a
//! deadline. A stream that takes snapshot marks needs none of this waiting: it publishes a revision as a whole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::subscription::{Content, Phase, Reply, Subscription};
use crate::mark::{self, Mark};
use crate::wire::{Request, Response};
use crate::{KindMap, Protocol, ResourceKind, Snapshot, Version};

/// What the server's operator chose.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long routes wait for clusters to be acknowledged, and removals for routes.
    pub gate: Duration,
    /// Above this many bytes a response is cut in two where the protocol allows it.
    pub response_bytes: usize,
    /// Names one stream may subscribe to, in all.
    pub names: usize,
    /// How long these names may be together.
    pub name_bytes: usize,
    /// The encoded `envoy.config.core.v3.ControlPlane` of every response.
    pub control_plane: Bytes,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gate: Duration::from_secs(15),
            response_bytes: 2 << 20,
            names: 1 << 20,
            name_bytes: 64 << 20,
            control_plane: Bytes::new(),
        }
    }
}

/// Why a stream must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Close {
    #[error("a request on an aggregated stream needs a type URL")]
    NoTypeUrl,
    #[error("this stream serves {served}, not {asked:?}")]
    WrongType { served: &'static str, asked: String },
    #[error("a stream may subscribe to {0} names")]
    TooManyNames(usize),
    #[error("the names a stream subscribes to may have {0} bytes together")]
    LongNames(usize),
    #[error("a request of the other protocol variant")]
    WrongVariant,
}

/// What happened on the stream, for the fleet's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    Sent {
        kind: ResourceKind,
        version: Version,
        resources: usize,
        removed: usize,
    },
    Acked {
        kind: ResourceKind,
        version: Version,
    },
    Nacked {
        kind: ResourceKind,
        version: Version,
        message: String,
    },
    /// The client has everything of this version; nothing had to be sent for it.
    InSync {
        kind: ResourceKind,
        version: Version,
    },
    /// All of the revision was sent and answered, with ACK or NACK.
    Settled {
        revision: u64,
    },
    /// What waited for an ACK was sent without it.
    GateTimeout {
        kind: ResourceKind,
    },
}

#[derive(Debug, Default)]
struct Marks {
    name: Option<Arc<str>>,
    waits_for: Vec<ResourceKind>,
    begun: Option<u64>,
    ended: Option<u64>,
    /// The nonce of that end.
    end_nonce: String,
    /// The end was acknowledged: the revision serves.
    served: Option<u64>,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    protocol: Protocol,
    /// The only kind of a stream that is not aggregated.
    fixed: Option<ResourceKind>,
    options: Arc<Options>,
    /// Whether the client reads a `Resource` inside a state-of-the-world response.
    wrapped: bool,
    snapshot: Option<Arc<Snapshot>>,
    subscriptions: KindMap<Subscription>,
    sent_at: KindMap<Option<Instant>>,
    heartbeat_at: KindMap<Option<Instant>>,
    reported: KindMap<Option<Version>>,
    marks: Marks,
    /// Answers about types we do not have.
    unknown: VecDeque<Response>,
    nonces: u64,
    settled: Option<u64>,
    gate_timed_out: bool,
    observed: Vec<Observed>,
}

const MAX_UNKNOWN: usize = 16;

impl Session {
    pub fn new(protocol: Protocol, fixed: Option<ResourceKind>, options: Arc<Options>) -> Self {
        Self {
            protocol,
            fixed,
            options,
            wrapped: false,
            snapshot: None,
            subscriptions: KindMap::from_fn(|kind| Subscription::new(kind, protocol)),
            sent_at: KindMap::default(),
            heartbeat_at: KindMap::default(),
            reported: KindMap::default(),
            marks: Marks::default(),
            unknown: VecDeque::new(),
            nonces: 0,
            settled: None,
            gate_timed_out: false,
            observed: Vec::new(),
        }
    }

    /// The client's node says that it reads wrapped resources (`xds.config.resource-in-sotw`).
    pub fn wrap_resources(&mut self) {
        self.wrapped = true;
    }

    /// What happened since the last call.
    pub fn observed(&mut self) -> Vec<Observed> {
        std::mem::take(&mut self.observed)
    }

    // === snapshots ===

    /// From now on this is what the client is to have.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>, now: Instant) {
        for kind in ResourceKind::PUSH_ORDER {
            if self.subscriptions[kind].opened {
                self.subscriptions[kind].advance(&snapshot.sets[kind]);
            }
            self.schedule_heartbeat(kind, &snapshot, now);
        }
        self.gate_timed_out = false;
        self.snapshot = Some(snapshot);
    }

    fn schedule_heartbeat(&mut self, kind: ResourceKind, snapshot: &Snapshot, now: Instant) {
        let can = self.protocol == Protocol::Delta || self.wrapped;
        let due = snapshot.sets[kind].shortest_ttl().filter(|_| can).map(|ttl| now + ttl / 2);
        self.heartbeat_at[kind] = match (self.heartbeat_at[kind], due) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (_, due) => due,
        };
    }

    // === requests ===

    /// # Errors
    /// The stream must be closed with this reason.
    pub fn on_request(&mut self, request: Request) -> Result<(), Close> {
        let kind = match self.kind_of(request.type_url())? {
            Some(ResourceKind::SnapshotMark) => {
                self.on_mark_request(&request);
                return Ok(());
            }
            Some(kind) => kind,
            None => {
                self.on_unknown(request);
                return Ok(());
            }
        };
        let subscription = &mut self.subscriptions[kind];
        let (reply, message) = match (self.protocol, request) {
            (Protocol::Delta, Request::Delta(request)) => {
                (subscription.on_delta(&request), request.error_detail.map(|status| status.message))
            }
            (Protocol::Sotw, Request::Sotw(request)) => {
                (subscription.on_sotw(&request), request.error_detail.map(|status| status.message))
            }
            _ => return Err(Close::WrongVariant),
        };
        match reply {
            Reply::Ack(version) => {
                self.reported[kind] = Some(version);
                self.observed.push(Observed::Acked { kind, version });
            }
            Reply::Nack(version) => {
                self.reported[kind] = Some(version);
                let message = message.unwrap_or_default();
                self.observed.push(Observed::Nacked { kind, version, message });
            }
            Reply::None | Reply::Stale => {}
        }
        if let Some(snapshot) = &self.snapshot {
            self.subscriptions[kind].advance(&snapshot.sets[kind]);
        }
        let sizes = self.subscriptions.iter().map(|(_, subscription)| subscription.size());
        let (names, bytes) = sizes.fold((0, 0), |(names, bytes), (more, longer)| (names + more, bytes + longer));
        if names > self.options.names {
            return Err(Close::TooManyNames(self.options.names));
        }
        if bytes > self.options.name_bytes {
            return Err(Close::LongNames(self.options.name_bytes));
        }
        Ok(())
    }

    fn kind_of(&self, type_url: &str) -> Result<Option<ResourceKind>, Close> {
        match (self.fixed, type_url) {
            (Some(kind), "") => Ok(Some(kind)),
            (Some(kind), asked) if asked == kind.type_url() => Ok(Some(kind)),
            (Some(kind), asked) => Err(Close::WrongType { served: kind.type_url(), asked: asked.to_owned() }),
            (None, "") => Err(Close::NoTypeUrl),
            (None, asked) => Ok(ResourceKind::from_type_url(asked)),
        }
    }

    fn on_mark_request(&mut self, request: &Request) {
        let (names, nonce, error) = match request {
            Request::Sotw(r) => (&r.resource_names, &r.response_nonce, &r.error_detail),
            Request::Delta(r) => (&r.resource_names_subscribe, &r.response_nonce, &r.error_detail),
        };
        if !nonce.is_empty() && *nonce == self.marks.end_nonce && error.is_none() {
            self.marks.served = self.marks.ended;
        }
        if let Some((name, kinds)) = names.iter().find_map(|name| Some((name, mark::kinds(name)?))) {
            self.marks.name = Some(name.as_str().into());
            self.marks.waits_for = kinds;
        }
    }

    fn on_unknown(&mut self, request: Request) {
        let Request::Delta(request) = request else {
            return;
        };
        if request.resource_names_subscribe.is_empty() || self.unknown.len() >= MAX_UNKNOWN {
            return;
        }
        // What is not read is kept; a client with names that long has no use for the answer.
        let long = request.type_url.len() + request.resource_names_subscribe.iter().map(String::len).sum::<usize>();
        if long > self.options.name_bytes / MAX_UNKNOWN {
            return;
        }
        let removed = request.resource_names_subscribe.iter().filter(|name| *name != "*").map(|n| n.as_str().into());
        let content = Content { removed: removed.collect(), ..Content::default() };
        let nonce = self.next_nonce();
        let response = self.response(request.type_url.as_str().into(), String::new(), nonce, content);
        self.unknown.push_back(response);
    }

    // === responses ===

    /// The next response, if one is due. To be called when the stream can take it.
    pub fn poll(&mut self, now: Instant) -> Option<Response> {
        if let Some(response) = self.unknown.pop_front() {
            return Some(response);
        }
        let revision = self.snapshot.as_ref()?.revision;
        if self.marks.name.is_some() && self.marks.begun != Some(revision) {
            self.marks.begun = Some(revision);
            return self.mark(Mark::Begin(revision));
        }
        for kind in ResourceKind::PUSH_ORDER {
            let phase = if self.is_gated(kind, now) { Phase::Answers } else { Phase::Upserts };
            if let Some(response) = self.take(kind, phase, now) {
                return Some(response);
            }
        }
        if let Some(response) = self.removals(now).or_else(|| self.heartbeats(now)) {
            return Some(response);
        }
        if let Some(response) = self.end_mark(revision) {
            return Some(response);
        }
        self.settle(revision);
        None
    }

    /// When `poll` may have something although nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        let gate = [ResourceKind::Cluster, ResourceKind::Listener, ResourceKind::Route, ResourceKind::ScopedRoute]
            .into_iter()
            .filter(|kind| self.marks.name.is_none() && self.subscriptions[*kind].awaits_ack())
            .filter_map(|kind| self.sent_at[kind].map(|at| at + self.options.gate));
        let owes = self.subscriptions.iter().any(|(_, s)| s.opened && (s.owes_upserts() || s.owes_removals()));
        let heartbeats = self.heartbeat_at.iter().filter_map(|(_, at)| *at);
        gate.filter(|_| owes).chain(heartbeats).min()
    }

    /// Changed routes and listeners wait until the client has the clusters they may name.
    fn is_gated(&mut self, kind: ResourceKind, now: Instant) -> bool {
        use ResourceKind::{Listener, Route, ScopedRoute, VirtualHost};
        let waits = matches!(kind, Listener | Route | ScopedRoute | VirtualHost) && self.marks.name.is_none();
        waits && self.subscriptions[kind].owes_upserts() && self.is_held(&[ResourceKind::Cluster], now)
    }

    fn is_held(&mut self, by: &[ResourceKind], now: Instant) -> bool {
        let mut held = false;
        for kind in by.iter().copied().filter(|kind| self.subscriptions[*kind].awaits_ack()) {
            if self.sent_at[kind].is_some_and(|at| now < at + self.options.gate) {
                held = true;
            } else if !std::mem::replace(&mut self.gate_timed_out, true) {
                self.observed.push(Observed::GateTimeout { kind });
            }
        }
        held
    }

    fn removals(&mut self, now: Instant) -> Option<Response> {
        if !self.subscriptions.iter().any(|(_, s)| s.opened && s.owes_removals()) {
            return None;
        }
        if self.subscriptions.iter().any(|(_, s)| s.opened && s.owes_upserts()) {
            return None;
        }
        let namers = [ResourceKind::Listener, ResourceKind::Route, ResourceKind::ScopedRoute];
        if self.marks.name.is_none() && self.is_held(&namers, now) {
            return None;
        }
        ResourceKind::REMOVAL_ORDER.into_iter().find_map(|kind| self.take(kind, Phase::Removals, now))
    }

    fn heartbeats(&mut self, now: Instant) -> Option<Response> {
        for kind in ResourceKind::PUSH_ORDER {
            if self.heartbeat_at[kind].is_none_or(|at| now < at) {
                continue;
            }
            let subscription = &mut self.subscriptions[kind];
            self.heartbeat_at[kind] = subscription.shortest_ttl().map(|ttl| now + ttl / 2);
            let content = if subscription.opened { subscription.heartbeats(self.wrapped) } else { None };
            if let Some(content) = content {
                return Some(self.send(kind, content, now));
            }
        }
        None
    }

    fn take(&mut self, kind: ResourceKind, phase: Phase, now: Instant) -> Option<Response> {
        let subscription = &mut self.subscriptions[kind];
        if !subscription.opened {
            return None;
        }
        let content = subscription.take(phase, self.wrapped, self.options.response_bytes)?;
        Some(self.send(kind, content, now))
    }

    fn send(&mut self, kind: ResourceKind, mut content: Content, now: Instant) -> Response {
        let nonce = self.next_nonce();
        let version = content.version.unwrap_or_else(|| self.subscriptions[kind].version());
        self.subscriptions[kind].sent(nonce.clone(), version);
        self.sent_at[kind] = Some(now);
        for (refreshed, name) in std::mem::take(&mut content.refresh) {
            self.subscriptions[refreshed].refresh(&name);
        }
        self.observed.push(Observed::Sent {
            kind,
            version,
            resources: content.resources.len(),
            removed: content.removed.len(),
        });
        self.response(kind.type_url().into(), version.to_string(), nonce, content)
    }

    fn next_nonce(&mut self) -> String {
        self.nonces += 1;
        self.nonces.to_string()
    }

    fn response(&self, type_url: Arc<str>, version: String, nonce: String, content: Content) -> Response {
        Response {
            protocol: self.protocol,
            type_url,
            version,
            nonce,
            resources: content.resources,
            removed: content.removed,
            control_plane: self.options.control_plane.clone(),
        }
    }

    // === the end of a revision ===

    fn mark(&mut self, mark: Mark) -> Option<Response> {
        let name = self.marks.name.clone()?;
        let resource = crate::Resource::named(ResourceKind::SnapshotMark, &name, mark.pack(&name));
        let bytes = match self.protocol {
            Protocol::Delta => resource.delta_bytes(),
            Protocol::Sotw => resource.sotw_bytes(),
        };
        let nonce = self.next_nonce();
        let content = Content { resources: vec![bytes], ..Content::default() };
        Some(self.response(ResourceKind::SnapshotMark.type_url().into(), resource.version.to_string(), nonce, content))
    }

    fn end_mark(&mut self, revision: u64) -> Option<Response> {
        let complete = self.marks.waits_for.iter().all(|kind| self.subscriptions[*kind].opened);
        let owing = self.subscriptions.iter().any(|(_, s)| s.opened && (s.owes_upserts() || s.owes_removals()));
        if self.marks.name.is_none() || self.marks.ended == Some(revision) || !complete || owing {
            return None;
        }
        self.marks.ended = Some(revision);
        let response = self.mark(Mark::End(revision))?;
        self.marks.end_nonce.clone_from(&response.nonce);
        Some(response)
    }

    fn settle(&mut self, revision: u64) {
        let mut all = true;
        let mut any = false;
        for kind in ResourceKind::PUSH_ORDER {
            let subscription = &self.subscriptions[kind];
            if !subscription.opened {
                continue;
            }
            any = true;
            let settled = subscription.is_settled();
            all &= settled;
            // What is named may be a part of the set, so that a new set need not change anything for this client.
            let version = subscription.version();
            if settled && self.protocol == Protocol::Delta && self.reported[kind] != Some(version) {
                self.reported[kind] = Some(version);
                self.observed.push(Observed::InSync { kind, version });
            }
        }
        // A client that takes marks acknowledges the end of a revision when it serves.
        all &= self.marks.name.is_none() || self.marks.served == Some(revision);
        if any && all && self.settled != Some(revision) {
            self.settled = Some(revision);
            self.observed.push(Observed::Settled { revision });
        }
    }
}
