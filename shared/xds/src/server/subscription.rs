//! What one stream asked for of one kind, and what it is still owed.
//!
//! Owed are names, never rendered responses: a slow client costs a set of names however much changes meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::wire::{DeltaRequest, SotwRequest};
use crate::{Protocol, Resource, ResourceKind, ResourceSet, Version};

type Names = BTreeSet<Arc<str>>;

/// A response that was sent and not yet acknowledged.
#[derive(Debug)]
struct Sent {
    nonce: String,
    version: Version,
}

/// How a request refers to the responses before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// It opens the subscription, or acknowledges nothing.
    None,
    /// It speaks of a response that is not the latest.
    Stale,
    Ack(Version),
    Nack(Version),
}

/// What of the owed names goes into a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Only what the client asked for just now.
    Answers,
    /// New and changed resources too.
    Upserts,
    /// Only what is gone.
    Removals,
}

/// The content of one response.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) resources: Vec<Bytes>,
    pub(super) removed: Vec<Arc<str>>,
    /// What must follow because of what is in here.
    pub(super) refresh: Vec<(ResourceKind, Arc<str>)>,
    pub(super) version: Option<Version>,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Subscription {
    kind: ResourceKind,
    protocol: Protocol,
    pub(super) opened: bool,
    wildcard: bool,
    ever_named: bool,
    names: Names,
    /// Every difference up to this set was sent or is in `changed`.
    base: Arc<ResourceSet>,
    /// The versions with which a client came back, until there is a set to compare them with.
    initial: Option<(BTreeMap<String, String>, String)>,
    /// To be answered now, whatever the client holds.
    answer: Names,
    /// Different from what the client holds.
    changed: Names,
    /// A response is owed even if it is empty.
    owed: bool,
    /// Clusters that are gone but still in a state-of-the-world response until nothing names them.
    lingering: BTreeMap<Arc<str>, Arc<Resource>>,
    in_flight: VecDeque<Sent>,
    acked: bool,
}

// More unacknowledged responses than this and the rest waits as names.
const MAX_IN_FLIGHT: usize = 32;

impl Subscription {
    pub(super) fn new(kind: ResourceKind, protocol: Protocol) -> Self {
        Self {
            kind,
            protocol,
            opened: false,
            wildcard: false,
            ever_named: false,
            names: Names::new(),
            base: Arc::default(),
            initial: None,
            answer: Names::new(),
            changed: Names::new(),
            owed: false,
            lingering: BTreeMap::new(),
            in_flight: VecDeque::new(),
            acked: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn is_waiting_for_ack(&self) -> bool {
        !self.in_flight.is_empty()
    }

    pub(super) fn takes(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn full_set(&self) -> bool {
        self.protocol == Protocol::Sotw && self.kind.is_full_set()
    }

    // === requests ===

    pub(super) fn on_delta(&mut self, request: &DeltaRequest) -> Reply {
        let reply = self.reply(&request.response_nonce, request.error_detail.is_some());
        let first = !std::mem::replace(&mut self.opened, true);
        if first {
            self.initial = Some((request.initial_resource_versions.clone(), String::new()));
            if request.resource_names_subscribe.is_empty() {
                self.wildcard = true;
                self.owed = true;
            }
        }
        for name in &request.resource_names_subscribe {
            self.ever_named = true;
            if name == "*" {
                self.take_all();
            } else {
                let name: Arc<str> = name.as_str().into();
                self.names.insert(name.clone());
                self.answer.insert(name);
            }
        }
        for name in &request.resource_names_unsubscribe {
            self.leave(name);
        }
        reply
    }

    fn take_all(&mut self) {
        if !self.wildcard {
            self.answer.extend(self.base.iter().map(|resource| resource.name.clone()));
        }
        self.wildcard = true;
        self.owed = true;
    }

    fn leave(&mut self, name: &str) {
        if name == "*" {
            self.wildcard = false;
            self.drop_untaken();
        } else if let Some(name) = self.names.take(name) {
            if self.wildcard {
                // Still theirs through the wildcard: they must hear whether it exists.
                self.answer.insert(name);
            } else {
                self.answer.remove(&name);
                self.changed.remove(&name);
            }
        }
    }

    fn drop_untaken(&mut self) {
        let Self { wildcard, names, answer, changed, .. } = self;
        if !*wildcard {
            answer.retain(|name| names.contains(name));
            changed.retain(|name| names.contains(name));
        }
    }

    pub(super) fn on_sotw(&mut self, request: &SotwRequest) -> Reply {
        let first = !std::mem::replace(&mut self.opened, true);
        if first || request.response_nonce.is_empty() {
            // A nonce on a first request belongs to an earlier stream or another server.
            self.set_names(&request.resource_names);
            self.answer.extend(self.names.iter().cloned());
            self.owed = self.kind.is_full_set() || self.wildcard;
            self.initial = Some((BTreeMap::new(), request.version_info.clone()));
            return Reply::None;
        }
        let reply = self.reply(&request.response_nonce, request.error_detail.is_some());
        if reply == Reply::Stale {
            return reply;
        }
        let (added, shrunk) = self.set_names(&request.resource_names);
        let again = reply == Reply::None && added.is_empty() && !shrunk && request.error_detail.is_none();
        if again {
            // The same question after its ACK: a client that starts over with a resource asks like this.
            self.answer.extend(self.names.iter().cloned());
            self.owed = self.kind.is_full_set() || self.wildcard;
        } else if !added.is_empty() || (shrunk && self.kind.is_full_set()) {
            self.owed |= self.kind.is_full_set();
        }
        self.answer.extend(added);
        reply
    }

    /// Takes the whole list; gives the names that are new, and whether some are gone.
    fn set_names(&mut self, list: &[String]) -> (Names, bool) {
        let named: Names = list.iter().filter(|name| *name != "*").map(|name| name.as_str().into()).collect();
        self.ever_named |= !list.is_empty();
        let wildcard = !self.ever_named || list.iter().any(|name| name == "*");
        if wildcard && !self.wildcard {
            self.answer.extend(self.base.iter().map(|resource| resource.name.clone()));
            self.owed = true;
        }
        let added: Names = named.difference(&self.names).cloned().collect();
        let shrunk = !self.names.is_subset(&named) || (self.wildcard && !wildcard);
        self.wildcard = wildcard;
        self.names = named;
        self.drop_untaken();
        (added, shrunk)
    }

    fn reply(&mut self, nonce: &str, refused: bool) -> Reply {
        if nonce.is_empty() {
            return Reply::None;
        }
        let Some(at) = self.in_flight.iter().position(|sent| sent.nonce == nonce) else {
            return Reply::Stale;
        };
        let latest_only = self.protocol == Protocol::Sotw;
        if latest_only {
            if at + 1 != self.in_flight.len() {
                return Reply::Stale;
            }
            self.in_flight.drain(..at);
            if std::mem::replace(&mut self.acked, true) {
                return Reply::None;
            }
            let version = self.in_flight[0].version;
            return if refused { Reply::Nack(version) } else { Reply::Ack(version) };
        }
        let version = self.in_flight[at].version;
        self.in_flight.drain(..=at);
        if refused { Reply::Nack(version) } else { Reply::Ack(version) }
    }

    // === sets ===

    /// Takes note of what is different in `set`.
    pub(super) fn advance(&mut self, set: &Arc<ResourceSet>) {
        for name in set.changed_since(&self.base) {
            if !self.takes(&name) {
                continue;
            }
            let keeps = self.full_set() && self.kind == ResourceKind::Cluster;
            match (set.get(&name), self.base.get(&name)) {
                (Some(_), _) => {
                    self.lingering.remove(&name);
                    self.changed.insert(name);
                }
                (None, Some(gone)) if keeps => {
                    self.changed.remove(&name);
                    self.lingering.insert(name, gone.clone());
                }
                (None, _) => {
                    self.changed.insert(name);
                }
            }
        }
        self.base = set.clone();
        if let Some((versions, version_info)) = self.initial.take() {
            self.compare(&versions, &version_info);
        }
    }

    /// Sorts out what a client that came back already has.
    fn compare(&mut self, versions: &BTreeMap<String, String>, version_info: &str) {
        if self.protocol == Protocol::Sotw {
            let held = Version::parse(version_info);
            if self.full_set() && self.wildcard && held.is_some_and(|held| held == self.base.version()) {
                self.owed = false;
                self.answer.clear();
                self.changed.clear();
            }
            return;
        }
        if self.wildcard && versions.is_empty() {
            self.changed.clear();
            self.answer.extend(self.base.iter().map(|resource| resource.name.clone()));
        }
        for (name, version) in versions {
            match self.base.get(name) {
                Some(resource) if Version::parse(version) == Some(resource.version) => {
                    self.answer.remove(&**name);
                    self.changed.remove(&**name);
                }
                Some(resource) if self.takes(name) => {
                    self.answer.remove(&**name);
                    self.changed.insert(resource.name.clone());
                }
                _ => {
                    self.changed.insert(name.as_str().into());
                }
            }
        }
    }

    /// Owes `name` again, if it exists and the client takes it.
    pub(super) fn refresh(&mut self, name: &Arc<str>) {
        if self.opened && self.takes(name) && self.base.get(name).is_some() {
            self.changed.insert(name.clone());
        }
    }

    // === responses ===

    /// Whether anything new or changed is owed.
    pub(super) fn owes_upserts(&self) -> bool {
        self.owed || !self.answer.is_empty() || self.changed.iter().any(|name| self.goes_with_upserts(name))
    }

    pub(super) fn owes_removals(&self) -> bool {
        !self.lingering.is_empty() || self.changed.iter().any(|name| !self.goes_with_upserts(name))
    }

    /// A listener that is gone only ends its own traffic, and must free its address for the one that replaces it.
    fn goes_with_upserts(&self, name: &str) -> bool {
        self.kind == ResourceKind::Listener || self.base.get(name).is_some()
    }

    /// Takes what the next response is to hold; `None` when there is nothing to send.
    pub(super) fn take(&mut self, phase: Phase, wrapped: bool, limit: usize) -> Option<Content> {
        if self.protocol == Protocol::Delta && self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let content = match self.protocol {
            Protocol::Delta => self.take_delta(phase, limit),
            Protocol::Sotw if self.kind.is_full_set() => self.take_full_set(phase, wrapped),
            Protocol::Sotw => self.take_named(phase, wrapped, limit),
        }?;
        Some(content)
    }

    fn take_delta(&mut self, phase: Phase, limit: usize) -> Option<Content> {
        let mut content = Content { version: Some(self.base.version()), ..Content::default() };
        let owed = phase != Phase::Removals && std::mem::take(&mut self.owed);
        if phase != Phase::Removals {
            while content.bytes < limit
                && let Some(name) = self.answer.pop_first()
            {
                self.changed.remove(&name);
                self.put_delta(&mut content, name);
            }
        }
        let due = |name: &Arc<str>| match phase {
            Phase::Answers => false,
            Phase::Upserts => self.goes_with_upserts(name),
            Phase::Removals => !self.goes_with_upserts(name),
        };
        let due: Vec<Arc<str>> = self.changed.iter().filter(|name| due(name)).cloned().collect();
        for name in due {
            if content.bytes >= limit {
                break;
            }
            self.changed.remove(&name);
            // A client may drop a filter's configuration on this and fail its requests; the listener that no longer
            // names the filter is what ends its use.
            if phase == Phase::Removals && self.kind == ResourceKind::Extension {
                continue;
            }
            self.put_delta(&mut content, name);
        }
        let empty = content.resources.is_empty() && content.removed.is_empty();
        (owed || !empty).then_some(content)
    }

    fn put_delta(&self, content: &mut Content, name: Arc<str>) {
        match self.base.get(&name) {
            Some(resource) => content.put(resource, resource.delta_bytes()),
            None if self.kind == ResourceKind::VirtualHost => {
                // Told as removed, clients leave the request waiting; an alias without a resource ends it.
                content.resources.push(absent_virtual_host(&name));
            }
            None => {
                content.bytes += name.len() + 8;
                content.removed.push(name);
            }
        }
    }

    fn take_full_set(&mut self, phase: Phase, wrapped: bool) -> Option<Content> {
        match phase {
            Phase::Answers if !self.owed && self.answer.is_empty() => return None,
            Phase::Upserts if !self.owes_upserts() => return None,
            Phase::Removals if !self.owes_removals() => return None,
            _ => {}
        }
        if phase == Phase::Removals {
            self.lingering.clear();
        }
        let fresh = std::mem::take(&mut self.changed);
        let asked = std::mem::take(&mut self.answer);
        let first = std::mem::take(&mut self.owed);
        let mut content = Content::default();
        let mut sent: BTreeMap<&str, Version> = BTreeMap::new();
        let taken = self.base.iter().filter(|resource| self.takes(&resource.name));
        let lingering = self.lingering.values().filter(|resource| self.takes(&resource.name));
        for resource in taken.chain(lingering) {
            sent.insert(&resource.name, resource.version);
            content.resources.push(sotw_bytes(resource, wrapped));
            if first || fresh.contains(&resource.name) || asked.contains(&resource.name) {
                content.refresh.extend(resource.refresh.iter().cloned());
            }
        }
        content.version = Some(Version::of_set(sent));
        Some(content)
    }

    fn take_named(&mut self, phase: Phase, wrapped: bool, limit: usize) -> Option<Content> {
        let mut content = Content::default();
        let mut due = std::mem::take(&mut self.answer);
        self.owed = false;
        if phase == Phase::Removals {
            // Absence says nothing in this variant of the protocol.
            let Self { changed, base, .. } = self;
            changed.retain(|name| base.get(name).is_some());
            return None;
        }
        if phase == Phase::Upserts {
            due.append(&mut self.changed);
        }
        while content.bytes < limit
            && let Some(name) = due.pop_first()
        {
            if let Some(resource) = self.base.get(&name) {
                content.put(resource, sotw_bytes(resource, wrapped));
            }
        }
        self.answer = due;
        if content.resources.is_empty() {
            return None;
        }
        let taken = self.base.iter().filter(|resource| self.takes(&resource.name));
        content.version = Some(Version::of_set(taken.map(|resource| (&*resource.name, resource.version))));
        Some(content)
    }

    /// Says of every resource with a lifetime that it lives on.
    pub(super) fn heartbeats(&mut self, wrapped: bool) -> Option<Content> {
        if self.full_set() {
            // A shorter response would delete the rest.
            self.owed = true;
            return self.take_full_set(Phase::Upserts, wrapped);
        }
        let mut content = Content { version: Some(self.base.version()), ..Content::default() };
        let sotw = self.protocol == Protocol::Sotw;
        let taken = self.base.iter().filter(|r| r.ttl.is_some() && self.takes(&r.name));
        for resource in taken.filter(|resource| !self.changed.contains(&resource.name)) {
            content.resources.push(resource.heartbeat_bytes(sotw));
        }
        (!content.resources.is_empty()).then_some(content)
    }

    /// How often resources with a lifetime must be confirmed.
    pub(super) fn shortest_ttl(&self) -> Option<std::time::Duration> {
        self.base.shortest_ttl()
    }

    pub(super) fn sent(&mut self, nonce: String, version: Version) {
        if self.protocol == Protocol::Sotw {
            self.acked = false;
            // Only the latest can still be acknowledged.
            self.in_flight.clear();
        }
        self.in_flight.push_back(Sent { nonce, version });
    }

    /// In the state of the world the latest response stays known, for its nonce names it in every later request.
    pub(super) fn is_settled(&self) -> bool {
        let answered = match self.protocol {
            Protocol::Delta => self.in_flight.is_empty(),
            Protocol::Sotw => self.acked || self.in_flight.is_empty(),
        };
        answered && !self.owes_upserts() && !self.owes_removals()
    }

    pub(super) fn awaits_ack(&self) -> bool {
        match self.protocol {
            Protocol::Delta => self.is_waiting_for_ack(),
            Protocol::Sotw => self.is_waiting_for_ack() && !self.acked,
        }
    }

    pub(super) fn version(&self) -> Version {
        self.base.version()
    }
}

impl Content {
    fn put(&mut self, resource: &Resource, bytes: Bytes) {
        self.bytes += bytes.len() + 8;
        self.resources.push(bytes);
        self.refresh.extend(resource.refresh.iter().cloned());
    }
}

fn sotw_bytes(resource: &Resource, wrapped: bool) -> Bytes {
    if wrapped && resource.ttl.is_some() { resource.wrapped_bytes() } else { resource.sotw_bytes() }
}

fn absent_virtual_host(name: &str) -> Bytes {
    use prost::Message;
    proto::envoy::service::discovery::v3::Resource {
        name: name.to_owned(),
        aliases: vec![name.to_owned()],
        ..Default::default()
    }
    .encode_to_vec()
    .into()
}
