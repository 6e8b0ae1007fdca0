//! Resources and immutable sets of them, shared by all streams, with what changed from one set to the next.
//!
//! Never says who gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::Any;
use proto::envoy::service::discovery::v3 as discovery;

use crate::{KindMap, ResourceKind, Version};

/// How many steps back a set remembers what changed; a stream further behind compares whole sets.
const REMEMBERED: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    #[error("unknown resource type {0:?}")]
    UnknownType(String),
    #[error("{0} resource is not decodable: {1}")]
    Undecodable(ResourceKind, prost::DecodeError),
    #[error("{0} resource has no name")]
    Unnamed(ResourceKind),
}

/// One resource, encoded once.
#[derive(Debug)]
pub struct Resource {
    pub kind: ResourceKind,
    pub name: Arc<str>,
    pub version: Version,
    pub any: Any,
    pub ttl: Option<Duration>,
    /// Other names by which it may be asked for (virtual hosts on demand).
    pub aliases: Vec<String>,
    /// What must be sent again when this resource changed, because a client that starts over with it may not ask
    /// (endpoints and secrets of a cluster, secrets of a listener).
    pub refresh: Vec<(ResourceKind, Arc<str>)>,
    delta: OnceLock<Bytes>,
    sotw: OnceLock<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// The name a resource holds itself. Only field 1 is looked at.
///
/// # Errors
/// The bytes are no message, or the name is not UTF-8.
pub fn inner_name(value: &Bytes) -> Result<String, prost::DecodeError> {
    Named::decode(value.clone()).map(|named| named.name)
}

impl Resource {
    /// A resource whose name is the one inside.
    ///
    /// # Errors
    /// The type is unknown, the bytes are no message or the name is empty.
    pub fn new(any: Any) -> Result<Self, ResourceError> {
        let kind = ResourceKind::from_type_url(&any.type_url)
            .ok_or_else(|| ResourceError::UnknownType(any.type_url.clone()))?;
        let name = inner_name(&any.value).map_err(|error| ResourceError::Undecodable(kind, error))?;
        if name.is_empty() {
            return Err(ResourceError::Unnamed(kind));
        }
        Ok(Self::named(kind, &name, any))
    }

    /// A resource under a given name (virtual hosts, whose name inside is not the whole).
    pub fn named(kind: ResourceKind, name: &str, any: Any) -> Self {
        Self {
            kind,
            name: name.into(),
            version: Version::of(&any.value),
            any,
            ttl: None,
            aliases: Vec::new(),
            refresh: Vec::new(),
            delta: OnceLock::new(),
            sotw: OnceLock::new(),
        }
    }

    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    #[must_use]
    pub fn with_refresh(mut self, refresh: Vec<(ResourceKind, Arc<str>)>) -> Self {
        self.refresh = refresh;
        self
    }

    fn envelope(&self, resource: Option<Any>) -> discovery::Resource {
        discovery::Resource {
            name: self.name.to_string(),
            version: self.version.to_string(),
            aliases: self.aliases.clone(),
            resource,
            ttl: self.ttl.and_then(|ttl| prost_types::Duration::try_from(ttl).ok()),
            ..Default::default()
        }
    }

    /// The encoded `discovery.v3.Resource`.
    pub fn delta_bytes(&self) -> Bytes {
        self.delta.get_or_init(|| self.envelope(Some(self.any.clone())).encode_to_vec().into()).clone()
    }

    /// The encoded `Any`.
    pub fn sotw_bytes(&self) -> Bytes {
        self.sotw.get_or_init(|| self.any.encode_to_vec().into()).clone()
    }

    /// The encoded `Any` that holds a `discovery.v3.Resource`, which is how the state of the world carries a TTL.
    pub fn wrapped_bytes(&self) -> Bytes {
        Any::pack(&self.envelope(Some(self.any.clone()))).encode_to_vec().into()
    }

    /// The encoded `discovery.v3.Resource` that only says that the resource is still alive.
    pub fn heartbeat_bytes(&self, wrapped: bool) -> Bytes {
        let heartbeat = self.envelope(None);
        if wrapped { Any::pack(&heartbeat).encode_to_vec().into() } else { heartbeat.encode_to_vec().into() }
    }

    fn same(&self, other: &Self) -> bool {
        self.version == other.version
            && self.ttl == other.ttl
            && self.aliases == other.aliases
            && self.any.type_url == other.any.type_url
            && self.refresh == other.refresh
    }
}

#[derive(Debug, Clone)]
struct Step {
    from: u64,
    names: Arc<[Arc<str>]>,
}

/// All resources of one kind in one snapshot.
#[derive(Debug, Clone)]
pub struct ResourceSet {
    /// Unique in the process, but for the empty set, which is always 0.
    id: u64,
    by_name: BTreeMap<Arc<str>, Arc<Resource>>,
    version: Version,
    shortest_ttl: Option<Duration>,
    steps: Vec<Step>,
}

impl Default for ResourceSet {
    fn default() -> Self {
        Self { id: 0, by_name: BTreeMap::new(), version: Version::of_set([]), shortest_ttl: None, steps: Vec::new() }
    }
}

impl ResourceSet {
    /// The set that follows `before` with these resources. A name given twice keeps the last. Unchanged resources stay
    /// the same allocation, and with nothing changed the set itself does.
    pub fn following(before: &Arc<Self>, resources: impl IntoIterator<Item = Resource>) -> Arc<Self> {
        let mut by_name = BTreeMap::new();
        for resource in resources {
            let kept = before.by_name.get(&resource.name).filter(|old| old.same(&resource)).cloned();
            by_name.insert(resource.name.clone(), kept.unwrap_or_else(|| Arc::new(resource)));
        }
        let changed = difference(&before.by_name, &by_name);
        if changed.is_empty() {
            return before.clone();
        }
        let mut steps = before.steps.clone();
        if steps.len() >= REMEMBERED {
            steps.remove(0);
        }
        steps.push(Step { from: before.id, names: changed.into_iter().collect() });
        let version = Version::of_set(by_name.iter().map(|(name, resource)| (&**name, resource.version)));
        let shortest_ttl = by_name.values().filter_map(|resource| resource.ttl).min();
        Arc::new(Self { shortest_ttl, id: next_id(), by_name, version, steps })
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(name)
    }

    /// The shortest lifetime of a resource in here.
    pub fn shortest_ttl(&self) -> Option<Duration> {
        self.shortest_ttl
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_name.values()
    }

    /// The names whose resource is another one (or none) here than in `before`.
    pub fn changed_since(&self, before: &Self) -> BTreeSet<Arc<str>> {
        if self.id == before.id {
            return BTreeSet::new();
        }
        match self.steps.iter().position(|step| step.from == before.id) {
            // From the empty set every line of sets starts, so that its first step is only true for its own line.
            Some(first) if before.id != 0 => {
                self.steps[first..].iter().flat_map(|step| step.names.iter().cloned()).collect()
            }
            _ => difference(&before.by_name, &self.by_name),
        }
    }
}

fn next_id() -> u64 {
    static IDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    IDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn difference(
    before: &BTreeMap<Arc<str>, Arc<Resource>>,
    after: &BTreeMap<Arc<str>, Arc<Resource>>,
) -> BTreeSet<Arc<str>> {
    let is_same = |old: &Arc<Resource>, new: &Arc<Resource>| Arc::ptr_eq(old, new) || old.same(new);
    let mut names: BTreeSet<Arc<str>> = after
        .iter()
        .filter(|(name, new)| before.get(*name).is_none_or(|old| !is_same(old, new)))
        .map(|(name, _)| name.clone())
        .collect();
    names.extend(before.keys().filter(|name| !after.contains_key(*name)).cloned());
    names
}

/// Everything a group of clients is to have, of all kinds, at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub revision: u64,
    pub sets: KindMap<Arc<ResourceSet>>,
}

impl Snapshot {
    /// The snapshot that follows `before`; kinds without resources become empty.
    pub fn following(before: &Self, revision: u64, resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut by_kind: KindMap<Vec<Resource>> = KindMap::default();
        for resource in resources {
            by_kind[resource.kind].push(resource);
        }
        let sets =
            KindMap::from_fn(|kind| ResourceSet::following(&before.sets[kind], std::mem::take(&mut by_kind[kind])));
        Self { revision, sets }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cluster(name: &str, content: u8) -> Resource {
        let mut value = Named { name: name.to_owned() }.encode_to_vec();
        value.extend([0x78, content & 0x7f]);
        Resource::new(Any { type_url: ResourceKind::Cluster.type_url().to_owned(), value: value.into() })
            .expect("valid")
    }

    #[test]
    fn an_unchanged_resource_keeps_its_allocation_and_an_unchanged_set_its_own() {
        let first = ResourceSet::following(&Arc::default(), [cluster("a", 1), cluster("b", 1)]);
        let second = ResourceSet::following(&first, [cluster("a", 1), cluster("b", 2)]);
        assert!(Arc::ptr_eq(first.get("a").expect("a"), second.get("a").expect("a")));
        assert_eq!(second.changed_since(&first).into_iter().collect::<Vec<_>>(), ["b".into()]);
        let third = ResourceSet::following(&second, [cluster("b", 2), cluster("a", 1)]);
        assert!(Arc::ptr_eq(&second, &third));
    }

    #[test]
    fn a_resource_needs_a_known_type_and_a_name() {
        let any = |kind: &str| Any { type_url: kind.to_owned(), value: Bytes::new() };
        assert!(matches!(Resource::new(any("x")), Err(ResourceError::UnknownType(_))));
        assert!(matches!(Resource::new(any(ResourceKind::Cluster.type_url())), Err(ResourceError::Unnamed(_))));
        let broken = Any { value: Bytes::from_static(&[0x0a, 0x05, b'a']), ..any(ResourceKind::Cluster.type_url()) };
        assert!(matches!(Resource::new(broken), Err(ResourceError::Undecodable(..))));
    }

    proptest! {
        #[test]
        fn what_changed_is_never_missed_however_far_behind(
            steps in prop::collection::vec(prop::collection::btree_map(0u8..6, 0u8..3, 0..6), 1..50),
            from in 0usize..50,
        ) {
            let mut sets = vec![Arc::<ResourceSet>::default()];
            for step in &steps {
                let resources = step.iter().map(|(name, content)| cluster(&name.to_string(), *content));
                sets.push(ResourceSet::following(sets.last().expect("one"), resources));
            }
            let (before, after) = (&sets[from % sets.len()], sets.last().expect("one"));
            let changed = after.changed_since(before);
            prop_assert!(changed.is_superset(&difference(&before.by_name, &after.by_name)));
        }
    }
}
