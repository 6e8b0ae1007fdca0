//! Reading a response: which resources are new, which are gone, and which are not fit to be looked at.
//!
//! A fault in one resource is a fault of that resource only.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use prost::Message;
use proto::Any;
use proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};

use super::{Client, Open, State};
use crate::resource::inner_name;
use crate::{ResourceKind, Version};

/// One new or changed resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub name: String,
    pub version: String,
    pub any: Any,
    /// It has a lifetime, and is not to be kept on disk.
    pub mortal: bool,
}

/// What a response says. It stays unanswered until `Client::settle`.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    pub kind: ResourceKind,
    pub version: String,
    pub upserts: Vec<Item>,
    pub removed: Vec<String>,
}

/// A response being read.
struct Reading<'a> {
    kind: ResourceKind,
    state: &'a mut State,
    now: Instant,
    seen: BTreeSet<String>,
    items: Vec<Item>,
    gone: Vec<String>,
    refused: Vec<(String, String)>,
    /// Where in the response the resource being read stands.
    index: usize,
    /// There is a resource of which not even the name can be read: it may be any of those that are not there.
    unreadable: bool,
}

impl Client {
    /// `None` for a type that was not subscribed to: such a response is neither acknowledged nor refused.
    pub fn on_delta(&mut self, response: DeltaDiscoveryResponse, now: Instant) -> Option<Received> {
        let kind = self.subscribed(&response.type_url)?;
        let mut reading = Reading::new(kind, &mut self.kinds[kind], now);
        for (index, resource) in response.resources.into_iter().enumerate() {
            reading.index = index;
            reading.envelope(resource);
        }
        for name in response.removed_resources {
            reading.remove(name);
        }
        Some(reading.finish(response.nonce, response.system_version_info))
    }

    /// `None` for a type that was not subscribed to: such a response is neither acknowledged nor refused.
    pub fn on_sotw(&mut self, response: DiscoveryResponse, now: Instant) -> Option<Received> {
        let kind = self.subscribed(&response.type_url)?;
        let mut reading = Reading::new(kind, &mut self.kinds[kind], now);
        for (index, any) in response.resources.into_iter().enumerate() {
            reading.index = index;
            if any.is::<Resource>() {
                match Resource::decode(any.value) {
                    Ok(resource) => reading.envelope(resource),
                    Err(error) => reading.refuse(String::new(), format!("not a resource: {error}")),
                }
            } else {
                reading.bare(any);
            }
        }
        if kind.is_full_set() {
            reading.remove_unseen();
        }
        Some(reading.finish(response.nonce, response.version_info))
    }

    fn subscribed(&self, type_url: &str) -> Option<ResourceKind> {
        ResourceKind::from_type_url(type_url).filter(|kind| self.kinds[*kind].opened)
    }
}

impl<'a> Reading<'a> {
    fn new(kind: ResourceKind, state: &'a mut State, now: Instant) -> Self {
        state.waiting.remove("");
        Self {
            kind,
            state,
            now,
            seen: BTreeSet::new(),
            items: Vec::new(),
            gone: Vec::new(),
            refused: Vec::new(),
            index: 0,
            unreadable: false,
        }
    }

    /// A resource in the envelope of the delta protocol.
    fn envelope(&mut self, resource: Resource) {
        let Resource { name, version, resource: any, ttl, .. } = resource;
        let ttl = ttl.and_then(|ttl| Duration::try_from(ttl).ok());
        match any {
            Some(any) => self.put(Some(name), Some(version), any, ttl),
            None if ttl.is_some() || self.state.held.get(&name).is_some_and(|held| *held == version) => {
                // A heartbeat: what we have lives on.
                self.seen.insert(name.clone());
                self.lives_until(&name, ttl);
            }
            None => self.remove(name),
        }
    }

    fn bare(&mut self, any: Any) {
        self.put(None, None, any, None);
    }

    fn put(&mut self, outer: Option<String>, version: Option<String>, any: Any, ttl: Option<Duration>) {
        let inner = inner_name(&any.value).map_err(|error| format!("not decodable: {error}"));
        let name = match (&outer, &inner) {
            (Some(outer), _) => outer.clone(),
            (None, Ok(inner)) => inner.clone(),
            (None, Err(_)) => String::new(),
        };
        match self.fault(&name, &any, inner) {
            Some(reason) => {
                self.seen.insert(name.clone());
                self.refuse(name, reason);
            }
            // Not asked for, or no longer: no concern of ours.
            None if !self.state.takes(&name) => {}
            None => {
                self.seen.insert(name.clone());
                self.state.waiting.remove(&name);
                self.state.again.remove(&name);
                self.lives_until(&name, ttl);
                // A version that spans the whole response says nothing about one resource.
                let version = version.unwrap_or_else(|| Version::of(&any.value).to_string());
                self.items.push(Item { name, version, any, mortal: ttl.is_some() });
            }
        }
    }

    /// One without a name is told by its place.
    fn refuse(&mut self, name: String, reason: String) {
        self.unreadable |= name.is_empty();
        let place = if name.is_empty() { format!("resources[{}]: ", self.index) } else { String::new() };
        self.refused.push((name, format!("{place}{reason}")));
    }

    fn fault(&self, name: &str, any: &Any, inner: Result<String, String>) -> Option<String> {
        let expected = self.kind.type_url().rsplit('/').next().unwrap_or_default();
        if any.type_name() != expected {
            return Some(format!("is a {:?}, not a {expected}", any.type_name()));
        }
        let inner = match inner {
            Ok(inner) => inner,
            Err(reason) => return Some(reason),
        };
        if name.is_empty() {
            return Some("has no name".to_owned());
        }
        if self.kind.has_inner_name() && inner != name {
            return Some(format!("holds the name {inner:?}"));
        }
        self.seen.contains(name).then(|| "is more than once in the response".to_owned())
    }

    fn lives_until(&mut self, name: &str, ttl: Option<Duration>) {
        // What lives longer than clocks count lives for ever.
        match ttl.and_then(|ttl| self.now.checked_add(ttl)) {
            Some(end) => self.state.expires.insert(name.to_owned(), end),
            None => self.state.expires.remove(name),
        };
    }

    fn remove(&mut self, name: String) {
        if self.seen.contains(&name) {
            self.items.retain(|item| item.name != name);
            self.refused.push((name, "is both updated and removed".to_owned()));
        } else if self.state.takes(&name) {
            self.state.waiting.remove(&name);
            self.gone.push(name);
        }
    }

    /// In a full set, what is not there is gone; and what is as it was is no news.
    fn remove_unseen(&mut self) {
        let Self { state, seen, gone, unreadable, .. } = self;
        if *unreadable {
            return;
        }
        gone.extend(state.held.keys().filter(|name| !seen.contains(*name)).cloned());
    }

    fn finish(self, nonce: String, version_info: String) -> Received {
        let Self { kind, state, mut items, gone, refused, .. } = self;
        let accepted = items.iter().map(|item| (item.name.clone(), item.version.clone())).collect();
        if kind.is_full_set() {
            items.retain(|item| state.held.get(&item.name) != Some(&item.version));
        }
        state.nonce.clone_from(&nonce);
        let version = version_info.clone();
        state.open = Some(Open { nonce, version_info, accepted, removed: gone.clone(), refused });
        Received { kind, version, upserts: items, removed: gone }
    }
}
