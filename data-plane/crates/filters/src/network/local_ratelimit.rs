//! The local_ratelimit filter of connections: so many in a time, over all workers; also before a chain is chosen.

use std::sync::Arc;
use std::time::Instant;

use shared_config::network_filter::RateLimit as Config;
use shared_telemetry::{Registry, Scope, stats};

use super::Refusal;
use crate::bucket::Bucket;
use crate::services::KeepStore;

stats! {
    /// `local_rate_limit.STAT_PREFIX.` and `listener_local_ratelimit.STAT_PREFIX.`
    pub struct ConnectionRateStats {
        counter rate_limited,
    }
}

pub struct LocalRateLimit {
    enabled: bool,
    bucket: Arc<Bucket>,
    stats: Arc<ConnectionRateStats>,
}

impl LocalRateLimit {
    pub(super) fn compile(config: &Config, place: &str, keep: &KeepStore, registry: &Registry) -> Self {
        Self::within("local_rate_limit", config, place, keep, registry)
    }

    /// That of a listener, which stands before all chains.
    pub fn of_listener(config: &Config, listener: &str, keep: &KeepStore, registry: &Registry) -> Self {
        Self::within("listener_local_ratelimit", config, listener, keep, registry)
    }

    fn within(kind: &str, config: &Config, place: &str, keep: &KeepStore, registry: &Registry) -> Self {
        let scope = Scope::new(&format!("{kind}.{}", config.stat_prefix), kind);
        let scope = scope.label(&format!("envoy_{kind}_prefix"), &config.stat_prefix);
        // A share key stands for all places that have it.
        let place =
            if config.share_key.is_empty() { format!("at {place}") } else { format!("of {}", config.share_key) };
        Self {
            enabled: config.enabled,
            bucket: keep.get_or_make(format!("{kind}\0{place}\0{:?}", config.bucket), || {
                Bucket::new(&config.bucket, Instant::now())
            }),
            stats: ConnectionRateStats::register(registry, scope),
        }
    }

    /// Takes a token for a connection.
    ///
    /// # Errors
    /// There is none.
    pub fn admit(&self, now: Instant, shard: usize) -> Result<(), Refusal> {
        if !self.enabled || self.bucket.take(now, 1) {
            return Ok(());
        }
        self.stats.rate_limited().inc(shard);
        Err(Refusal { delay: None, details: "local_rate_limit".into() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared_config::http_filter::local_ratelimit::TokenBucket;

    use super::*;

    fn limit(share_key: &str, place: &str, keep: &KeepStore) -> LocalRateLimit {
        let bucket = TokenBucket { max_tokens: 1, tokens_per_fill: 1, fill_interval: Duration::from_secs(3600) };
        let config = Config { stat_prefix: "p".into(), bucket, enabled: true, share_key: share_key.into() };
        LocalRateLimit::compile(&config, place, keep, &Registry::new(2))
    }

    #[test]
    fn filters_with_a_common_key_share_their_tokens_and_others_do_not() {
        let keep = KeepStore::default();
        let now = Instant::now();
        let (a, b, c) = (limit("k", "1", &keep), limit("k", "2", &keep), limit("", "3", &keep));
        assert!(a.admit(now, 1).is_ok());
        assert!(b.admit(now, 1).is_err());
        assert!(c.admit(now, 1).is_ok());
        assert_eq!(b.stats.rate_limited().value(), 1);
    }
}
