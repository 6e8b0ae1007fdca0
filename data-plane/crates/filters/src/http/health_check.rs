//! The health_check filter: answers requests that ask whether this proxy is well, or lets the origin answer them.
//!
//! While the process drains or an operator failed it, every health check is answered with 503 here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use dp_http::flags::Flags;
use dp_http::{LocalReply, RequestHead, ResponseHead, name};
use shared_config::http_filter::health_check::{Config, Mode, Override};
use shared_telemetry::stats;

use crate::filter::{Cx, Flow, HttpFilter};
use crate::matching::HeaderMatch;
use crate::services::{Health, Scope};

stats! {
    /// `http.STAT_PREFIX.health_check.`
    struct Stats {
        counter request_total,
        counter ok,
        counter failed,
        counter degraded,
        counter cached_response,
        counter failed_cluster_not_found,
        counter failed_cluster_empty,
        counter failed_cluster_unhealthy,
    }
}

pub struct HealthCheck {
    mode: Mode,
    headers: Box<[HeaderMatch]>,
    health: Arc<dyn Health>,
    node_cluster: Arc<str>,
    cached: Arc<Cached>,
    stats: Arc<Stats>,
}

/// The last answer of the origin, in one word so that workers share it without a lock: the moment in milliseconds
/// since `since` until which it holds, then status and whether it was degraded.
struct Cached {
    since: Instant,
    answer: AtomicU64,
}

#[derive(Default)]
pub struct Stream {
    is_check: bool,
    is_cached: bool,
}

impl HttpFilter for HealthCheck {
    type Config = Config;
    type Override = Override;
    type Stream = Stream;

    fn compile(config: &Config, _overrides: &[&Override], scope: &Scope<'_>) -> Option<Self> {
        let since = scope.services.now;
        Some(Self {
            mode: config.mode.clone(),
            headers: HeaderMatch::all(&config.headers),
            health: Arc::clone(&scope.services.health),
            node_cluster: Arc::clone(&scope.services.node_cluster),
            stats: Stats::register(scope.registry(), scope.stats("health_check")),
            cached: scope.keep("health_check", config, || Cached { since, answer: AtomicU64::new(0) }),
        })
    }

    fn on_request(&self, stream: &mut Stream, cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        if !self.headers.iter().all(|header| header.matches(head)) {
            return Flow::Continue;
        }
        stream.is_check = true;
        cx.info.health_check = true;
        self.stats.request_total().inc(cx.shard());
        let reply = match &self.mode {
            _ if self.health.is_failing() => failed("health_check_failed"),
            Mode::PassThrough { cache_time } => match cache_time.and_then(|_| self.cached.get(cx.now)) {
                Some((status, is_degraded)) => {
                    self.stats.cached_response().inc(cx.shard());
                    cached(status, is_degraded)
                }
                None => return Flow::Continue,
            },
            Mode::Answer { cluster_min_healthy_percentages } => {
                self.answer(cluster_min_healthy_percentages, cx.shard())
            }
        };
        stream.is_cached = true;
        Flow::Reply(Box::new(reply))
    }

    fn on_response(&self, stream: &mut Stream, cx: &mut Cx<'_>, head: &mut ResponseHead) -> Flow {
        if stream.is_check {
            let is_ok = (200..300).contains(&head.status);
            let count = if is_ok { self.stats.ok() } else { self.stats.failed() };
            count.inc(cx.shard());
            if head.headers.contains(&name::X_ENVOY_DEGRADED) {
                self.stats.degraded().inc(cx.shard());
            }
            if let Mode::PassThrough { cache_time: Some(time) } = self.mode
                && !stream.is_cached
            {
                self.cached.set(cx.now, time, head.status, head.headers.contains(&name::X_ENVOY_DEGRADED));
            }
            head.headers.set("x-envoy-upstream-healthchecked-cluster", self.node_cluster.as_bytes());
        } else if self.health.is_failing() {
            head.headers.set(&name::X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL, b"True");
        }
        Flow::Continue
    }
}

impl HealthCheck {
    fn answer(&self, percentages: &BTreeMap<String, f64>, shard: usize) -> LocalReply {
        for (name, percent) in percentages {
            let Some(cluster) = self.health.cluster(name) else {
                self.stats.failed_cluster_not_found().inc(shard);
                return failed("health_check_failed_cluster_not_found");
            };
            // A cluster without endpoints is well only when nobody asks it to have healthy ones.
            if cluster.total == 0 && *percent > 0.0 {
                self.stats.failed_cluster_empty().inc(shard);
                return failed("health_check_failed_cluster_empty");
            }
            let healthy = (cluster.healthy + cluster.degraded) as f64;
            if 100.0 * healthy < cluster.total as f64 * percent {
                self.stats.failed_cluster_unhealthy().inc(shard);
                return failed("health_check_failed_cluster_unhealthy");
            }
        }
        LocalReply::new(200, "health_check_ok")
    }
}

fn failed(details: &'static str) -> LocalReply {
    LocalReply::new(503, details).flag(Flags::FAILED_LOCAL_HEALTH_CHECK)
}

fn cached(status: u16, is_degraded: bool) -> LocalReply {
    let mut reply = LocalReply::new(status, "health_check_cached");
    if is_degraded {
        reply.headers.set(&name::X_ENVOY_DEGRADED, b"");
    }
    if !(200..300).contains(&status) {
        reply.flags.set(Flags::FAILED_LOCAL_HEALTH_CHECK);
    }
    reply
}

// === impl Cached ===

impl Cached {
    fn get(&self, now: Instant) -> Option<(u16, bool)> {
        let answer = self.answer.load(Relaxed);
        let until = answer >> 17;
        (self.millis(now) < until).then_some(((answer >> 1) as u16, answer & 1 == 1))
    }

    fn set(&self, now: Instant, time: Duration, status: u16, is_degraded: bool) {
        // 47 bits of milliseconds are 4,000 years.
        let until = (self.millis(now) + u64::try_from(time.as_millis()).unwrap_or(u64::MAX >> 18)).min((1 << 47) - 1);
        self.answer.store(until << 17 | u64::from(status) << 1 | u64::from(is_degraded), Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_millis() as u64
    }
}

#[cfg(test)]
mod tests;
