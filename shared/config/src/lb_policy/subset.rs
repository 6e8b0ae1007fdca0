//! Subsets: endpoints divided by their metadata (`envoy.lb`), picked by that of the route.

use std::collections::{BTreeMap, BTreeSet};

use proto::envoy::config::cluster::v3::cluster as old;
use proto::envoy::extensions::load_balancing_policies::subset::v3 as new;
use serde_json::Value;

use crate::invalid::Problems;

#[derive(Debug, Clone, PartialEq)]
pub struct Subset {
    /// For requests that no subset takes.
    pub fallback: Fallback,
    pub default_subset: BTreeMap<String, Value>,
    /// Never empty.
    pub selectors: Vec<Selector>,
    /// A request may name more keys than a selector has.
    pub redundant_keys: bool,
    /// Locality weights count in subsets too, scaled by how much of the locality is in the subset when `scale_locality`.
    pub locality_weights: bool,
    pub scale_locality: bool,
    /// When the fallback has nobody either, any endpoint will do.
    pub panic_any: bool,
    /// An endpoint is in the subset of each element of a list.
    pub list_as_any: bool,
    /// The request's `fallback_list` names sets of metadata to try in order.
    pub fallback_list: bool,
}

/// The keys that one kind of subset is made by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    pub keys: BTreeSet<String>,
    pub fallback: SelectorFallback,
    /// Each subset is its first endpoint.
    pub single_host: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    None,
    Any,
    Default,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectorFallback {
    /// What the cluster does.
    Inherited,
    To(Fallback),
    /// Again, by these keys only.
    Keys(BTreeSet<String>),
}

// === decode ===

/// Both messages have the same fields but one.
macro_rules! decode {
    ($proto:expr, $redundant_keys:expr, $message:path, $module:ident, $selector:ident, $p:expr) => {{
        let (proto, p): (&$message, &mut Problems) = ($proto, $p);
        use $module::{LbSubsetFallbackPolicy as Policy, LbSubsetMetadataFallbackPolicy as MetadataPolicy};
        let fallback = match Policy::try_from(proto.fallback_policy) {
            Ok(Policy::NoFallback) => Fallback::None,
            Ok(Policy::AnyEndpoint) => Fallback::Any,
            Ok(Policy::DefaultSubset) => Fallback::Default,
            Err(_) => return p.refuse_at("fallback_policy", "unknown value"),
        };
        let fallback_list = match MetadataPolicy::try_from(proto.metadata_fallback_policy) {
            Ok(MetadataPolicy::MetadataNoFallback) => false,
            Ok(MetadataPolicy::FallbackList) => true,
            Err(_) => return p.refuse_at("metadata_fallback_policy", "unknown value"),
        };
        let selectors = p.each("subset_selectors", &proto.subset_selectors, |p, selector| {
            use $selector::LbSubsetSelectorFallbackPolicy as Policy;
            let fallback = match Policy::try_from(selector.fallback_policy) {
                Ok(Policy::NotDefined) => SelectorFallback::Inherited,
                Ok(Policy::NoFallback) => SelectorFallback::To(Fallback::None),
                Ok(Policy::AnyEndpoint) => SelectorFallback::To(Fallback::Any),
                Ok(Policy::DefaultSubset) => SelectorFallback::To(Fallback::Default),
                Ok(Policy::KeysSubset) => {
                    SelectorFallback::Keys(selector.fallback_keys_subset.iter().cloned().collect())
                }
                Err(_) => return p.refuse_at("fallback_policy", "unknown value"),
            };
            let keys = selector.keys.iter().cloned().collect();
            Selector { keys, fallback, single_host: selector.single_host_per_subset }
                .checked(!selector.fallback_keys_subset.is_empty(), p)
        });
        let default_subset = match proto.default_subset.as_ref().map(proto::json::struct_to_value) {
            Some(Value::Object(fields)) => fields.into_iter().collect(),
            _ => BTreeMap::new(),
        };
        Self {
            fallback,
            default_subset,
            selectors,
            redundant_keys: $redundant_keys,
            locality_weights: proto.locality_weight_aware,
            scale_locality: proto.scale_locality_weight,
            panic_any: proto.panic_mode_any,
            list_as_any: proto.list_as_any,
            fallback_list,
        }
        .finished(p)
    }};
}

impl Subset {
    pub(super) fn decode_old(proto: &old::LbSubsetConfig, p: &mut Problems) -> Option<Option<Self>> {
        use old::lb_subset_config as module;
        use old::lb_subset_config::lb_subset_selector as selector;
        decode!(proto, false, old::LbSubsetConfig, module, selector, p)
    }

    pub(super) fn decode(proto: &new::Subset, p: &mut Problems) -> Option<Option<Self>> {
        use new::subset as module;
        use new::subset::lb_subset_selector as selector;
        decode!(proto, proto.allow_redundant_keys, new::Subset, module, selector, p)
    }

    /// Without selectors there are no subsets, as in Envoy.
    fn finished(mut self, p: &mut Problems) -> Option<Option<Self>> {
        let mut seen = BTreeSet::new();
        for (i, selector) in self.selectors.iter().enumerate() {
            if !seen.insert(&selector.keys) {
                p.at("subset_selectors", |p| {
                    p.index(i, |p| p.refuse_at::<()>("keys", "another selector has the same"))
                });
            }
        }
        // The selector that matches most of a request's keys comes first.
        if self.redundant_keys {
            self.selectors.sort_by_key(|selector| std::cmp::Reverse(selector.keys.len()));
        }
        Some(Some(self).filter(|subset| !subset.selectors.is_empty()))
    }
}

impl Selector {
    fn checked(self, has_fallback_keys: bool, p: &mut Problems) -> Option<Self> {
        if self.keys.is_empty() {
            return p.refuse_at("keys", "must not be empty");
        }
        if self.single_host && self.keys.len() != 1 {
            return p.refuse_at("single_host_per_subset", "needs exactly one key");
        }
        match &self.fallback {
            SelectorFallback::Keys(keys) if keys.is_empty() => {
                p.refuse_at("fallback_keys_subset", "must not be empty with KEYS_SUBSET")
            }
            SelectorFallback::Keys(keys) if !keys.is_subset(&self.keys) => {
                p.refuse_at("fallback_keys_subset", "must be among the keys of the selector")
            }
            SelectorFallback::Keys(keys) if keys.len() == self.keys.len() => {
                p.refuse_at("fallback_keys_subset", "must be fewer than the keys of the selector")
            }
            SelectorFallback::Keys(_) => Some(self),
            _ if has_fallback_keys => p.refuse_at("fallback_keys_subset", "only goes with KEYS_SUBSET"),
            _ => Some(self),
        }
    }
}
