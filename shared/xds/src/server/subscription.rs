//! What one stream asked for of one kind, and what it is still owed.
//!
//! Owed are names, never rendered responses: a slow client costs a set of names however much changes meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::wire::{DeltaRequest, SotwRequest};
use crate::{Protocol, Resource, ResourceKind, ResourceSet, Version};

mod responses;

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
    name_bytes: usize,
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
            name_bytes: 0,
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

    /// How many names it subscribes to, and how long they are together.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.names.len(), self.name_bytes)
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
                if self.names.insert(name.clone()) {
                    self.name_bytes += name.len();
                }
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
            self.name_bytes -= name.len();
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
        self.name_bytes = named.iter().map(|name| name.len()).sum();
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

    // === books ===

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
