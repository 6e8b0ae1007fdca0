//! The client end: what is wanted and held of each kind, the requests that follow, and what a response says.
//!
//! What is held outlives a stream, and with it what the next stream opens with; nonces do not. Whether a resource is any
//! good is for the caller to say, by `settle`.

mod inbox;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use proto::google::rpc::Status;

pub use inbox::{Item, Received};

use crate::{KindMap, Protocol, ResourceKind};

/// What is wanted of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    pub wildcard: bool,
    pub names: BTreeSet<String>,
}

impl Interest {
    pub fn all() -> Self {
        Self { wildcard: true, ..Self::default() }
    }

    pub fn named<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self { wildcard: false, names: names.into_iter().map(Into::into).collect() }
    }

    pub fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    pub fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

/// A request to write; its node is the caller's to add to the first of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    Sotw(DiscoveryRequest),
    Delta(DeltaDiscoveryRequest),
}

/// A response waiting for the caller's verdict.
#[derive(Debug)]
struct Open {
    nonce: String,
    version_info: String,
    accepted: Vec<(String, String)>,
    removed: Vec<String>,
    refused: Vec<(String, String)>,
}

#[derive(Debug)]
struct Answer {
    nonce: String,
    error: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    interest: Interest,
    /// The version of every resource in use. In the state of the world: the hash of its content.
    held: BTreeMap<String, String>,
    version_info: String,
    expires: BTreeMap<String, Instant>,
    /// When to give up waiting for the first answer; the empty name stands for the whole kind.
    waiting: BTreeMap<String, Instant>,
    // Of this stream:
    opened: bool,
    told: Interest,
    nonce: String,
    open: Option<Open>,
    answer: Option<Answer>,
    /// Names taken off the list in the state of the world. The server may have passed over that request, so that it does
    /// not see them come back; then only asking again brings them, and that may be passed over too.
    dropped: BTreeSet<String>,
    again: BTreeMap<String, u32>,
    ask_again: bool,
}

impl State {
    /// From here on the server knows, or will know, exactly what is wanted.
    fn tell(&mut self) {
        let interest = &self.interest;
        self.held.retain(|name, _| interest.covers(name));
        self.expires.retain(|name, _| interest.covers(name));
        self.dropped.extend(self.told.names.difference(&interest.names).cloned());
        self.told = self.interest.clone();
    }

    /// Whether the server may rightly send this.
    fn takes(&self, name: &str) -> bool {
        self.interest.covers(name) || self.told.covers(name)
    }
}

/// One source of resources, over all its streams.
#[derive(Debug)]
pub struct Client {
    protocol: Protocol,
    /// None waits for ever.
    fetch_timeout: Option<Duration>,
    connected: bool,
    kinds: KindMap<State>,
}

/// The most text of a refusal that is sent.
pub const REFUSAL_BYTES: usize = 4096;

// How often a name that came back is asked for again.
const MAX_AGAIN: u32 = 8;

// The code of a refusal: INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

impl Client {
    pub fn new(protocol: Protocol, fetch_timeout: Option<Duration>) -> Self {
        Self { protocol, fetch_timeout, connected: false, kinds: KindMap::default() }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The versions in use, by name.
    pub fn held(&self, kind: ResourceKind) -> &BTreeMap<String, String> {
        &self.kinds[kind].held
    }

    /// Something kept from an earlier life is in use again.
    pub fn hold(&mut self, kind: ResourceKind, name: String, version: String) {
        self.kinds[kind].held.insert(name, version);
    }

    /// Something is not in use after all.
    pub fn release(&mut self, kind: ResourceKind, name: &str) {
        self.kinds[kind].held.remove(name);
    }

    // === what is wanted ===

    pub fn interest(&self, kind: ResourceKind) -> &Interest {
        &self.kinds[kind].interest
    }

    /// Sets what is wanted of `kind`. What is no longer wanted is held until the server was told: dropped and wanted
    /// again before the next request, it was never dropped, and would not be sent again.
    pub fn want(&mut self, kind: ResourceKind, interest: Interest, now: Instant) {
        let state = &mut self.kinds[kind];
        if state.interest == interest {
            return;
        }
        if let Some(timeout) = self.fetch_timeout {
            if interest.wildcard && !state.interest.wildcard && state.held.is_empty() {
                state.waiting.insert(String::new(), now + timeout);
            }
            for name in interest.names.difference(&state.interest.names) {
                if !state.held.contains_key(name) {
                    state.waiting.insert(name.clone(), now + timeout);
                }
            }
        }
        state.waiting.retain(|name, _| if name.is_empty() { interest.wildcard } else { interest.names.contains(name) });
        let back = interest.names.difference(&state.interest.names).filter(|name| state.dropped.contains(*name));
        state.again.extend(back.map(|name| (name.clone(), 0)));
        state.again.retain(|name, _| interest.covers(name));
        state.ask_again = !state.again.is_empty();
        state.interest = interest;
        if !state.opened {
            state.tell();
        }
    }

    // === streams ===

    /// A new stream is open. Everything is asked anew, with what is held; no nonce survives.
    pub fn connected(&mut self) {
        self.connected = true;
        self.forget_stream();
    }

    pub fn disconnected(&mut self) {
        self.connected = false;
        self.forget_stream();
    }

    fn forget_stream(&mut self) {
        for state in self.kinds.values_mut() {
            state.opened = false;
            state.tell();
            state.nonce.clear();
            state.open = None;
            state.answer = None;
            state.dropped.clear();
            state.again.clear();
            state.ask_again = false;
        }
    }

    // === requests ===

    /// The next request to send, if any. Acknowledgements and changed subscriptions share one.
    pub fn poll(&mut self) -> Option<Request> {
        if !self.connected {
            return None;
        }
        // The marks first, so that the revision begins before its first resource.
        let marks = std::iter::once(ResourceKind::SnapshotMark);
        marks.chain(ResourceKind::PUSH_ORDER).find_map(|kind| match self.protocol {
            Protocol::Sotw => self.poll_sotw(kind).map(Request::Sotw),
            Protocol::Delta => self.poll_delta(kind).map(Request::Delta),
        })
    }

    fn poll_sotw(&mut self, kind: ResourceKind) -> Option<DiscoveryRequest> {
        let state = &mut self.kinds[kind];
        // Nothing is said between a response and the answer to it.
        let news = state.answer.is_some() || state.told != state.interest;
        let due =
            if state.opened { state.open.is_none() && (news || state.ask_again) } else { !state.interest.is_empty() };
        if !due {
            return None;
        }
        if !news {
            // The same list once more, after its acknowledgement, is a question for all of it.
            state.ask_again = false;
            state.again.retain(|_, tries| {
                *tries += 1;
                *tries < MAX_AGAIN
            });
        }
        let opening = !std::mem::replace(&mut state.opened, true);
        state.tell();
        let mut resource_names: Vec<String> = state.interest.names.iter().cloned().collect();
        if state.interest.wildcard && (!resource_names.is_empty() || !kind.is_root()) {
            resource_names.insert(0, "*".to_owned());
        }
        let error = state.answer.take().and_then(|answer| answer.error);
        Some(DiscoveryRequest {
            version_info: state.version_info.clone(),
            resource_names,
            type_url: kind.type_url().to_owned(),
            response_nonce: if opening { String::new() } else { state.nonce.clone() },
            error_detail: error.map(status),
            ..Default::default()
        })
    }

    fn poll_delta(&mut self, kind: ResourceKind) -> Option<DeltaDiscoveryRequest> {
        let state = &mut self.kinds[kind];
        let mut request = DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..Default::default() };
        let nothing = Interest::default();
        let (told, interest) = (if state.opened { &state.told } else { &nothing }, &state.interest);
        let mut subscribe: Vec<String> = interest.names.difference(&told.names).cloned().collect();
        let mut unsubscribe: Vec<String> = told.names.difference(&interest.names).cloned().collect();
        if state.opened {
            if interest.wildcard && !told.wildcard {
                subscribe.insert(0, "*".to_owned());
            } else if told.wildcard && !interest.wildcard {
                unsubscribe.insert(0, "*".to_owned());
            }
            if subscribe.is_empty() && unsubscribe.is_empty() && state.answer.is_none() {
                return None;
            }
        } else {
            if interest.is_empty() {
                return None;
            }
            if interest.wildcard && !subscribe.is_empty() {
                subscribe.insert(0, "*".to_owned());
            }
            request.initial_resource_versions = state.held.clone();
            state.opened = true;
        }
        state.tell();
        // Here a request is never passed over.
        state.dropped.clear();
        request.resource_names_subscribe = subscribe;
        request.resource_names_unsubscribe = unsubscribe;
        if let Some(answer) = state.answer.take() {
            request.response_nonce = answer.nonce;
            request.error_detail = answer.error.map(status);
        }
        Some(request)
    }

    // === verdicts ===

    /// The caller has looked at the latest response of `kind` and refuses these. Gives all refusals, its own and those
    /// found on arrival.
    pub fn settle(&mut self, kind: ResourceKind, refused: Vec<(String, String)>) -> Vec<(String, String)> {
        let state = &mut self.kinds[kind];
        let Some(open) = state.open.take() else {
            return refused;
        };
        let bad: BTreeSet<&str> = refused.iter().map(|(name, _)| name.as_str()).collect();
        for (name, version) in open.accepted {
            if !bad.contains(name.as_str()) && kind != ResourceKind::SnapshotMark {
                state.held.insert(name, version);
            }
        }
        for name in open.removed {
            state.held.remove(&name);
            state.expires.remove(&name);
        }
        let all: Vec<_> = open.refused.into_iter().chain(refused).collect();
        if all.is_empty() {
            state.version_info = open.version_info;
        }
        state.ask_again = !state.again.is_empty();
        state.answer = Some(Answer { nonce: open.nonce, error: (!all.is_empty()).then(|| refusal_text(&all)) });
        all
    }

    // === time ===

    /// When `expired` or `timed_out` next has something.
    pub fn deadline(&self) -> Option<Instant> {
        self.kinds.iter().flat_map(|(_, s)| s.expires.values().chain(s.waiting.values())).min().copied()
    }

    /// Resources whose lifetime ended; they are no longer held.
    pub fn expired(&mut self, now: Instant) -> Vec<(ResourceKind, Vec<String>)> {
        self.due(|state| {
            let names = take_due(&mut state.expires, now);
            for name in &names {
                state.held.remove(name);
            }
            names
        })
    }

    /// What had no first answer in time; the empty name stands for the whole kind. Each is told once.
    pub fn timed_out(&mut self, now: Instant) -> Vec<(ResourceKind, Vec<String>)> {
        self.due(|state| take_due(&mut state.waiting, now))
    }

    fn due(&mut self, mut take: impl FnMut(&mut State) -> Vec<String>) -> Vec<(ResourceKind, Vec<String>)> {
        let kinds = ResourceKind::PUSH_ORDER.into_iter();
        kinds.map(|kind| (kind, take(&mut self.kinds[kind]))).filter(|(_, names)| !names.is_empty()).collect()
    }
}

fn take_due(times: &mut BTreeMap<String, Instant>, now: Instant) -> Vec<String> {
    let due: Vec<String> = times.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
    for name in &due {
        times.remove(name);
    }
    due
}

fn status(message: String) -> Status {
    Status { code: INVALID_ARGUMENT, message, ..Default::default() }
}

/// `(name: reason) (name: reason)`, cut where it would be too long.
pub fn refusal_text(refused: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, reason) in refused {
        if text.len() >= REFUSAL_BYTES {
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        match name.as_str() {
            "" => text.push_str(&format!("({reason})")),
            name => text.push_str(&format!("({name}: {reason})")),
        }
    }
    if text.len() > REFUSAL_BYTES {
        let mut end = REFUSAL_BYTES - 3;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests;
