//! The buckets of one configuration, and which of them a request takes from.
//!
//! The lock is for descriptors with open values and for limits per connection only, and held for one look-up.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use dp_http::info::ConnectionInfo;
use shared_config::http_filter::local_ratelimit::{self as config, Config, TokenBucket};

use super::descriptor::Descriptor;
use crate::bucket::Bucket;

pub(super) struct Limiter {
    default: Option<Arc<Bucket>>,
    always_consume_default: bool,
    descriptors: Box<[Limit]>,
}

struct Limit {
    entries: Vec<(String, String)>,
    /// Tokens a second.
    rate: f64,
    buckets: Buckets,
}

enum Buckets {
    One(Arc<Bucket>),
    /// One for each set of values, as many as fit.
    Open(Mutex<Recent>),
}

/// Buckets by values, of which the least recently used goes first.
struct Recent {
    config: TokenBucket,
    most: usize,
    by_values: HashMap<String, (Arc<Bucket>, u64)>,
    by_use: BTreeMap<u64, String>,
    uses: u64,
}

pub(super) struct Verdict {
    pub(super) is_allowed: bool,
    /// The bucket that decided, or the scarcest that was taken from.
    pub(super) bucket: Option<Arc<Bucket>>,
}

/// Limiters of connections that are open.
pub(super) struct PerConnection {
    config: Config,
    limiters: Mutex<HashMap<u64, Open>>,
}

/// Dead once the connection is closed.
type Open = (Weak<ConnectionInfo>, Arc<Limiter>);

// === impl Limiter ===

impl Limiter {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let limit = |descriptor: &config::Descriptor| {
            let bucket = descriptor.bucket;
            let is_open = descriptor.entries.iter().any(|(_, value)| value.is_empty());
            let buckets = if is_open {
                Buckets::Open(Mutex::new(Recent::new(bucket, config.max_dynamic_descriptors as usize)))
            } else {
                Buckets::One(Arc::new(Bucket::new(&bucket, now)))
            };
            let rate = f64::from(bucket.tokens_per_fill) / bucket.fill_interval.as_secs_f64();
            Limit { entries: descriptor.entries.clone(), rate, buckets }
        };
        Self {
            default: config.bucket.map(|bucket| Arc::new(Bucket::new(&bucket, now))),
            always_consume_default: config.always_consume_default,
            descriptors: config.descriptors.iter().map(limit).collect(),
        }
    }

    pub(super) fn ask(&self, now: Instant, descriptors: &[Descriptor<'_>]) -> Verdict {
        let mut matched: Vec<(&Limit, Arc<Bucket>, u32)> = Vec::new();
        for descriptor in descriptors {
            // A descriptor whose values are all given goes before one with open values.
            let exact = self.descriptors.iter().filter(|limit| matches!(limit.buckets, Buckets::One(_)));
            let open = self.descriptors.iter().filter(|limit| matches!(limit.buckets, Buckets::Open(_)));
            if let Some(limit) = exact.chain(open).find(|limit| limit.covers(descriptor)) {
                matched.push((limit, limit.bucket(descriptor, now), descriptor.hits));
            }
        }
        // The slowest first, as it is the likeliest to be empty.
        matched.sort_by(|a, b| a.0.rate.total_cmp(&b.0.rate));
        for (_, bucket, hits) in &matched {
            if !bucket.take(now, *hits) {
                return Verdict { is_allowed: false, bucket: Some(Arc::clone(bucket)) };
            }
        }
        let first = matched.first().map(|(_, bucket, _)| Arc::clone(bucket));
        if first.is_none() || self.always_consume_default {
            let Some(default) = &self.default else { return Verdict { is_allowed: true, bucket: first } };
            let is_allowed = default.take(now, 1);
            let told = if is_allowed { first.unwrap_or_else(|| Arc::clone(default)) } else { Arc::clone(default) };
            return Verdict { is_allowed, bucket: Some(told) };
        }
        Verdict { is_allowed: true, bucket: first }
    }
}

impl Limit {
    fn covers(&self, descriptor: &Descriptor<'_>) -> bool {
        self.entries.len() == descriptor.entries.len()
            && self.entries.iter().zip(&descriptor.entries).all(|((key, value), (asked_key, asked_value))| {
                key == asked_key && (value.is_empty() || value == asked_value)
            })
    }

    fn bucket(&self, descriptor: &Descriptor<'_>, now: Instant) -> Arc<Bucket> {
        match &self.buckets {
            Buckets::One(bucket) => Arc::clone(bucket),
            Buckets::Open(recent) => {
                let mut values = String::new();
                for (_, value) in &descriptor.entries {
                    values.push_str(value);
                    values.push('\0');
                }
                recent.lock().unwrap_or_else(PoisonError::into_inner).bucket(values, now)
            }
        }
    }
}

// === impl Recent ===

impl Recent {
    fn new(config: TokenBucket, most: usize) -> Self {
        Self { config, most, by_values: HashMap::new(), by_use: BTreeMap::new(), uses: 0 }
    }

    fn bucket(&mut self, values: String, now: Instant) -> Arc<Bucket> {
        self.uses += 1;
        if let Some((bucket, used)) = self.by_values.get_mut(&values) {
            self.by_use.remove(used);
            *used = self.uses;
            self.by_use.insert(self.uses, values);
            return Arc::clone(bucket);
        }
        if self.by_values.len() >= self.most
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.by_values.remove(&oldest);
        }
        let bucket = Arc::new(Bucket::new(&self.config, now));
        self.by_use.insert(self.uses, values.clone());
        self.by_values.insert(values, (Arc::clone(&bucket), self.uses));
        bucket
    }
}

// === impl PerConnection ===

impl PerConnection {
    pub(super) fn new(config: &Config) -> Self {
        Self { config: config.clone(), limiters: Mutex::default() }
    }

    pub(super) fn of(&self, connection: &Arc<ConnectionInfo>, now: Instant) -> Arc<Limiter> {
        let mut limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, limiter)) = limiters.get(&connection.id) {
            return Arc::clone(limiter);
        }
        // Each time the map would grow, closed connections go first.
        if limiters.len() == limiters.capacity() {
            limiters.retain(|_, (connection, _)| connection.strong_count() > 0);
        }
        let limiter = Arc::new(Limiter::new(&self.config, now));
        limiters.insert(connection.id, (Arc::downgrade(connection), Arc::clone(&limiter)));
        limiter
    }
}
