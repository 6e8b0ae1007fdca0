//! Turning the names that a subscription is owed into the content of the next response.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Content, MAX_IN_FLIGHT, Phase, Subscription};
use crate::{Protocol, Resource, ResourceKind, Version};

impl Subscription {
    /// Whether anything new or changed is owed.
    pub(in super::super) fn owes_upserts(&self) -> bool {
        self.owed || !self.answer.is_empty() || self.changed.iter().any(|name| self.goes_with_upserts(name))
    }

    pub(in super::super) fn owes_removals(&self) -> bool {
        !self.lingering.is_empty() || self.changed.iter().any(|name| !self.goes_with_upserts(name))
    }

    /// A listener that is gone only ends its own traffic, and must free its address for the one that replaces it.
    fn goes_with_upserts(&self, name: &str) -> bool {
        self.kind == ResourceKind::Listener || self.base.get(name).is_some()
    }

    /// Takes what the next response is to hold; `None` when there is nothing to send.
    pub(in super::super) fn take(&mut self, phase: Phase, wrapped: bool, limit: usize) -> Option<Content> {
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
    pub(in super::super) fn heartbeats(&mut self, wrapped: bool) -> Option<Content> {
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
    pub(in super::super) fn shortest_ttl(&self) -> Option<std::time::Duration> {
        self.base.shortest_ttl()
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
