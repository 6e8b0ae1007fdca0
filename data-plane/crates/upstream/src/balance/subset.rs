//! Subsets: tables for each set of endpoints with equal metadata (`envoy.lb`), found by what a route asks for.
//!
//! Compiled with the other tables. Finding a subset costs a look-up by a hash that was made with the route.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::Value;
use shared_config::lb_policy::{Fallback, Selector, SelectorFallback, Subset as Config};
use stdx::hash::xxh64;

use super::{Draw, Levels, Locality, Part, Rules};
use crate::endpoint::Endpoint;
use crate::stats::LbStats;

/// The metadata that a route wants of its endpoint (`metadata_match`).
#[derive(Debug, Clone, PartialEq)]
pub struct Criteria {
    pairs: Pairs,
    fields: BTreeMap<String, Value>,
    /// What its `fallback_list` says, for clusters that heed it: sets to try in this order.
    list: Option<Box<[Pairs]>>,
}

/// Keys with the text of their values, in the order of the keys.
type Pairs = Box<[Pair]>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    key: String,
    value: String,
    hash: u64,
}

/// Some of the pairs.
#[derive(Clone, Copy)]
struct View<'a> {
    pairs: &'a [Pair],
    /// `None`: all of them.
    keys: Option<&'a BTreeSet<String>>,
}

/// The subsets of a cluster.
#[derive(Debug)]
pub(crate) struct Subsets {
    config: Config,
    /// By the sum of the hashes of their pairs.
    found: HashMap<u64, Vec<Subset>>,
    default: Part,
    /// Endpoints that are left out because their subset has one already.
    pub duplicates: u64,
}

#[derive(Debug)]
struct Subset {
    pairs: Pairs,
    part: Part,
}

/// An endpoint with its priority and the number of its locality there.
type Member<'a> = (usize, usize, &'a Arc<Endpoint>);

const NAMESPACE: &str = "envoy.lb";
const FALLBACK_LIST: &str = "fallback_list";

// === impl Criteria ===

impl Criteria {
    /// From the `envoy.lb` part of metadata; `None` when there is nothing.
    pub fn compile(metadata: &BTreeMap<String, Value>) -> Option<Self> {
        let fields: BTreeMap<_, _> =
            metadata.get(NAMESPACE)?.as_object()?.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        (!fields.is_empty()).then(|| Self::of(fields))
    }

    /// With what `more` says instead or besides.
    pub fn merged(&self, more: &Self) -> Self {
        let mut fields = self.fields.clone();
        fields.extend(more.fields.clone());
        Self::of(fields)
    }

    /// With what a filter of this request said (dynamic metadata).
    pub fn with_text(of: Option<&Self>, more: &BTreeMap<String, String>) -> Self {
        let mut fields = of.map(|criteria| criteria.fields.clone()).unwrap_or_default();
        fields.extend(more.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))));
        Self::of(fields)
    }

    fn of(fields: BTreeMap<String, Value>) -> Self {
        let list = fields.get(FALLBACK_LIST).and_then(Value::as_array).map(|list| {
            let mut rest = fields.clone();
            rest.remove(FALLBACK_LIST);
            if list.is_empty() {
                return Box::from([pairs(&rest)]);
            }
            let merge = |more: &Value| {
                let mut fields = rest.clone();
                let more = more.as_object().into_iter().flatten();
                fields.extend(more.map(|(key, value)| (key.clone(), value.clone())));
                pairs(&fields)
            };
            list.iter().map(merge).collect()
        });
        Self { pairs: pairs(&fields), fields, list }
    }
}

fn pairs(fields: &BTreeMap<String, Value>) -> Pairs {
    fields.iter().map(|(key, value)| Pair::new(key, value)).collect()
}

impl Pair {
    fn new(key: &str, value: &Value) -> Self {
        let value = value.to_string();
        let hash = xxh64(value.as_bytes(), xxh64(key.as_bytes(), 0));
        Self { key: key.to_owned(), value, hash }
    }
}

// === impl View ===

impl<'a> View<'a> {
    fn pairs(self) -> impl Iterator<Item = &'a Pair> {
        self.pairs.iter().filter(move |pair| self.keys.is_none_or(|keys| keys.contains(&pair.key)))
    }

    fn has_all(self, keys: &BTreeSet<String>) -> bool {
        keys.iter().all(|key| self.pairs().any(|pair| pair.key == *key))
    }
}

// === impl Subsets ===

impl Subsets {
    pub(super) fn build(config: &Config, levels: &Levels, rules: &Rules<'_>) -> Self {
        let mut subsets =
            Self { config: config.clone(), found: HashMap::new(), default: Part::default(), duplicates: 0 };
        for selector in &config.selectors {
            for (pairs, mut members) in divide(selector, config.list_as_any, levels) {
                if selector.single_host && members.len() > 1 {
                    subsets.duplicates += members.len() as u64 - 1;
                    members.truncate(1);
                }
                let part = Part::build(&config.levels(levels, &members), rules);
                subsets.found.entry(sum(&pairs)).or_default().push(Subset { pairs, part });
            }
        }
        let default = |endpoint: &Endpoint| {
            config.default_subset.iter().all(|(key, value)| {
                field(endpoint, key).is_some_and(|found| {
                    found == value || (config.list_as_any && found.as_array().is_some_and(|l| l.contains(value)))
                })
            })
        };
        let falls_to_default = |s: &Selector| s.fallback == SelectorFallback::To(Fallback::Default);
        if config.fallback == Fallback::Default || config.selectors.iter().any(falls_to_default) {
            let members: Vec<Member<'_>> = members(levels).filter(|(.., endpoint)| default(endpoint)).collect();
            subsets.default = Part::build(&config.levels(levels, &members), rules);
        }
        subsets
    }

    /// What identifies each subset.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        self.found.keys().copied()
    }

    pub(super) fn pick<'a>(&'a self, whole: &'a Part, draw: &mut Draw<'_>) -> Option<(&'a Arc<Endpoint>, bool)> {
        let Some(criteria) = draw.criteria else { return self.fall_back(whole, draw) };
        match &criteria.list {
            Some(list) if self.config.fallback_list => list.iter().find_map(|pairs| self.once(whole, pairs, draw)),
            _ => self.once(whole, &criteria.pairs, draw),
        }
    }

    fn once<'a>(&'a self, whole: &'a Part, pairs: &[Pair], draw: &mut Draw<'_>) -> Option<(&'a Arc<Endpoint>, bool)> {
        let mut view = View { pairs, keys: None };
        // Each turn has fewer keys than the one before.
        loop {
            if self.config.redundant_keys
                && let Some(selector) = self.config.selectors.iter().find(|selector| view.has_all(&selector.keys))
            {
                view.keys = Some(&selector.keys);
            }
            if let Some(subset) = self.find(view) {
                count(draw, |stats, shard| stats.lb_subsets_selected().inc(shard));
                return subset.part.pick(draw);
            }
            let count = view.pairs().count();
            let selector = self.config.selectors.iter().find(|s| s.keys.len() == count && view.has_all(&s.keys));
            match selector.map(|selector| &selector.fallback) {
                Some(SelectorFallback::To(Fallback::None)) => return None,
                Some(SelectorFallback::To(Fallback::Any)) => return whole.pick(draw),
                Some(SelectorFallback::To(Fallback::Default)) => return self.default.pick(draw),
                Some(SelectorFallback::Keys(keys)) => view.keys = Some(keys),
                Some(SelectorFallback::Inherited) | None => return self.fall_back(whole, draw),
            }
        }
    }

    fn find(&self, view: View<'_>) -> Option<&Subset> {
        let sum = view.pairs().fold(0, |sum: u64, pair| sum.wrapping_add(pair.hash));
        self.found.get(&sum)?.iter().find(|subset| subset.pairs.iter().eq(view.pairs()))
    }

    /// What the cluster does with requests that no subset takes.
    fn fall_back<'a>(&'a self, whole: &'a Part, draw: &mut Draw<'_>) -> Option<(&'a Arc<Endpoint>, bool)> {
        let part = match self.config.fallback {
            Fallback::None => return None,
            Fallback::Any => whole,
            Fallback::Default => &self.default,
        };
        if let Some(found) = part.pick(draw) {
            count(draw, |stats, shard| stats.lb_subsets_fallback().inc(shard));
            return Some(found);
        }
        let found = whole.pick(draw).filter(|_| self.config.panic_any)?;
        count(draw, |stats, shard| stats.lb_subsets_fallback_panic().inc(shard));
        Some(found)
    }
}

/// Counts a pick, not the further attempts to make it.
fn count(draw: &Draw<'_>, inc: fn(&LbStats, usize)) {
    if let Some(stats) = draw.stats
        && draw.attempt == 0
    {
        inc(stats, draw.worker + 1);
    }
}

fn sum(pairs: &[Pair]) -> u64 {
    pairs.iter().fold(0, |sum, pair| sum.wrapping_add(pair.hash))
}

fn members(levels: &Levels) -> impl Iterator<Item = Member<'_>> {
    levels.iter().enumerate().flat_map(|(priority, level)| {
        level.iter().enumerate().flat_map(move |(locality, l)| l.endpoints.iter().map(move |e| (priority, locality, e)))
    })
}

fn field<'a>(endpoint: &'a Endpoint, key: &str) -> Option<&'a Value> {
    endpoint.metadata.get(NAMESPACE)?.get(key)
}

/// The endpoints by what they have at the keys of the selector.
fn divide<'a>(selector: &Selector, list_as_any: bool, levels: &'a Levels) -> Vec<(Pairs, Vec<Member<'a>>)> {
    let mut order = Vec::new();
    let mut divided: HashMap<Vec<String>, (Pairs, Vec<Member<'a>>)> = HashMap::new();
    for member in members(levels) {
        // All combinations of what the endpoint has at each key; none when it lacks a key.
        let mut rows: Vec<Vec<Pair>> = vec![Vec::new()];
        for key in &selector.keys {
            let values: Vec<&Value> = match field(member.2, key) {
                None => Vec::new(),
                Some(Value::Array(list)) if list_as_any => list.iter().collect(),
                Some(value) => vec![value],
            };
            let with = |row: &Vec<Pair>, value: &Value| {
                let mut row = row.clone();
                row.push(Pair::new(key, value));
                row
            };
            rows = rows.iter().flat_map(|row| values.iter().map(|value| with(row, value))).collect();
        }
        for row in rows {
            let id: Vec<String> = row.iter().map(|pair| pair.value.clone()).collect();
            let subset = divided.entry(id.clone()).or_insert_with(|| {
                order.push(id);
                (row.into(), Vec::new())
            });
            subset.1.push(member);
        }
    }
    order.iter().filter_map(|id| divided.remove(id)).collect()
}

/// What [`Config`] says about the localities of a subset.
trait SubsetLevels {
    fn levels(&self, whole: &Levels, members: &[Member<'_>]) -> Levels;
}

impl SubsetLevels for Config {
    fn levels(&self, whole: &Levels, members: &[Member<'_>]) -> Levels {
        let empty = |locality: &Locality| Locality { endpoints: Vec::new(), ..locality.clone() };
        let mut levels: Levels = whole.iter().map(|level| level.iter().map(empty).collect()).collect();
        for (priority, locality, endpoint) in members {
            levels[*priority][*locality].endpoints.push(Arc::clone(endpoint));
        }
        for (level, whole) in levels.iter_mut().zip(whole) {
            for (locality, whole) in level.iter_mut().zip(whole) {
                locality.weight = match locality.weight {
                    Some(weight) if self.locality_weights && self.scale_locality && !whole.endpoints.is_empty() => {
                        Some(scaled(weight, locality.endpoints.len(), whole.endpoints.len()))
                    }
                    weight if self.locality_weights => weight,
                    _ => None,
                };
            }
        }
        levels
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most the weight"
)]
fn scaled(weight: u32, part: usize, whole: usize) -> u32 {
    ((f64::from(weight) * part as f64 / whole as f64).round() as u32).max(u32::from(weight > 0 && part > 0))
}

#[cfg(test)]
mod tests;
