//! The fault filter: delays, aborts and slow responses for a share of the requests.
//!
//! A route's configuration replaces the one of the chain as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use dp_http::flags::Flags;
use dp_http::{LocalReply, RequestHead, StreamInfo};
use shared_config::core::{Fraction, RuntimeFraction, RuntimeNumber};
use shared_config::http_filter::fault::{Abort, Config, Delay, Fault as Configured, Override, Rate};
use shared_telemetry::stats;

use crate::filter::{Cx, Flow, HeaderEdits, HttpFilter, Verdict};
use crate::matching::{HeaderMatch, admits};
use crate::services::Scope;

stats! {
    /// `http.STAT_PREFIX.fault.`
    struct Stats {
        counter delays_injected,
        counter aborts_injected,
        counter response_rl_injected,
        counter faults_overflow,
        gauge active_faults,
    }
}

pub struct Fault {
    config: Config,
    headers: Box<[HeaderMatch]>,
    abort_body: Bytes,
    /// Streams that suffer a fault now, on all workers and routes with this configuration.
    active: Arc<AtomicU64>,
    stats: Arc<Stats>,
}

/// Whether this stream is counted as active.
type Active = bool;

impl HttpFilter for Fault {
    type Config = Config;
    type Override = Override;
    type Stream = Active;

    fn compile(config: &Config, overrides: &[&Override], scope: &Scope<'_>) -> Option<Self> {
        let config = in_force(overrides.last().map_or(config, |config| config));
        if config.delay.is_none() && config.abort.is_none() && config.response_rate_limit.is_none() {
            return None;
        }
        let body = if config.abort_body.is_empty() { "fault filter abort" } else { &config.abort_body };
        Some(Self {
            headers: HeaderMatch::all(&config.headers),
            abort_body: Bytes::copy_from_slice(body.as_bytes()),
            active: scope.keep("fault", &config, || AtomicU64::new(0)),
            stats: Stats::register(scope.registry(), scope.stats("fault")),
            config,
        })
    }

    fn on_request(&self, active: &mut Active, cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        if !self.applies(cx, head) {
            return Flow::Continue;
        }
        if let Some(rate) = self.rate(cx, head) {
            self.activate(active, cx.shard());
            self.stats.response_rl_injected().inc(cx.shard());
            cx.pace_response(rate);
        }
        let delay = self.delay(cx, head);
        let abort = self.abort(cx, head);
        if delay.is_some() || abort.is_some() {
            self.activate(active, cx.shard());
        }
        if delay.is_some() {
            self.stats.delays_injected().inc(cx.shard());
        }
        if abort.is_some() {
            self.stats.aborts_injected().inc(cx.shard());
        }
        match (delay, abort) {
            (None, None) => Flow::Continue,
            (None, Some(reply)) => Flow::Reply(reply),
            (Some(delay), abort) => {
                cx.info.flags.set(Flags::DELAY_INJECTED);
                Flow::Wait(Box::pin(async move {
                    tokio::time::sleep(delay).await;
                    abort.map_or_else(|| Verdict::Continue(HeaderEdits::default()), Verdict::Reply)
                }))
            }
        }
    }

    fn on_end(&self, active: &mut Active, info: &StreamInfo) {
        if std::mem::take(active) {
            self.stats.active_faults().dec(info.connection.shard());
            self.active.fetch_sub(1, Relaxed);
        }
    }
}

impl Fault {
    fn applies(&self, cx: &Cx<'_>, head: &RequestHead) -> bool {
        let config = &self.config;
        if !config.upstream_cluster.is_empty()
            && cx.info.upstream.cluster.as_deref() != Some(config.upstream_cluster.as_str())
        {
            return false;
        }
        if !config.downstream_nodes.is_empty() {
            let node = head.headers.text("x-envoy-downstream-service-node");
            if !node.is_some_and(|node| config.downstream_nodes.iter().any(|known| known == node)) {
                return false;
            }
        }
        if !self.headers.iter().all(|header| header.matches(head)) {
            return false;
        }
        // Two workers may both pass at the edge; like Envoy's, this limit is not exact.
        if config.max_active_faults.is_some_and(|max| self.active.load(Relaxed) >= max.into()) {
            self.stats.faults_overflow().inc(cx.shard());
            return false;
        }
        true
    }

    fn activate(&self, active: &mut Active, shard: usize) {
        if !std::mem::replace(active, true) {
            self.stats.active_faults().inc(shard);
            self.active.fetch_add(1, Relaxed);
        }
    }

    fn delay(&self, cx: &mut Cx<'_>, head: &RequestHead) -> Option<Duration> {
        let fault = self.config.delay.as_ref()?;
        let (delay, share) = match fault.what {
            Delay::Fixed(delay) => (delay, fault.percentage),
            Delay::Header => (
                Duration::from_millis(number(head, "x-envoy-fault-delay-request")?),
                share(fault.percentage, head, "x-envoy-fault-delay-request-percentage"),
            ),
        };
        (!delay.is_zero() && admits(share, cx.random())).then_some(delay)
    }

    fn abort(&self, cx: &mut Cx<'_>, head: &RequestHead) -> Option<Box<LocalReply>> {
        let fault = self.config.abort.as_ref()?;
        let (status, share) = match fault.what {
            Abort::Http(status) => ((status, None), fault.percentage),
            Abort::Grpc(status) => ((200, Some(status)), fault.percentage),
            Abort::Header => {
                let http = number(head, "x-envoy-fault-abort-request").filter(|status| (200..600).contains(status));
                let grpc = || number(head, "x-envoy-fault-abort-grpc-request").filter(|status| *status <= 16);
                let status = http.map(|s| (s as u16, None)).or_else(|| grpc().map(|s| (200, Some(s as u8))))?;
                (status, share(fault.percentage, head, "x-envoy-fault-abort-request-percentage"))
            }
        };
        let (status, grpc_status) = status;
        admits(share, cx.random()).then(|| {
            let reply = LocalReply::new(status, "fault_filter_abort").body(self.abort_body.clone());
            Box::new(LocalReply { grpc_status, ..reply.flag(Flags::FAULT_INJECTED) })
        })
    }

    fn rate(&self, cx: &mut Cx<'_>, head: &RequestHead) -> Option<u64> {
        let fault = self.config.response_rate_limit.as_ref()?;
        let (kib, share) = match fault.what {
            Rate::Fixed(kib) => (kib, fault.percentage),
            Rate::Header => (
                number(head, "x-envoy-fault-throughput-response").filter(|kib| *kib > 0)?,
                share(fault.percentage, head, "x-envoy-fault-throughput-response-percentage"),
            ),
        };
        admits(share, cx.random()).then(|| kib.saturating_mul(1024))
    }
}

/// The configuration with what runtime keys say in its place.
fn in_force(config: &Config) -> Config {
    let mut config = config.clone();
    let keys = &config.keys;
    let number = |key: &str, default: u32| RuntimeNumber { default, key: key.to_owned() }.value();
    if let Some(fault) = &mut config.delay {
        fault.percentage = share_in_force(fault, &keys.delay_percent);
        if let Delay::Fixed(delay) = &mut fault.what {
            let millis = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
            let asked = number(&keys.delay_duration, millis);
            if asked != u64::from(millis) {
                *delay = Duration::from_millis(asked);
            }
        }
    }
    if let Some(fault) = &mut config.abort {
        fault.percentage = share_in_force(fault, &keys.abort_percent);
        // A status that is none leaves the configured one.
        match &mut fault.what {
            Abort::Http(status) => {
                let asked = u16::try_from(number(&keys.abort_http_status, (*status).into())).unwrap_or(*status);
                *status = if (200..600).contains(&asked) { asked } else { *status };
            }
            Abort::Grpc(status) => {
                *status = u8::try_from(number(&keys.abort_grpc_status, (*status).into())).unwrap_or(*status);
            }
            Abort::Header => {}
        }
    }
    if let Some(fault) = &mut config.response_rate_limit {
        fault.percentage = share_in_force(fault, &keys.response_rate_limit_percent);
    }
    let most = number(&keys.max_active_faults, config.max_active_faults.unwrap_or(u32::MAX));
    config.max_active_faults = u32::try_from(most).ok().filter(|most| *most != u32::MAX);
    config
}

fn share_in_force<T>(fault: &Configured<T>, key: &str) -> Fraction {
    RuntimeFraction { default: fault.percentage, key: key.to_owned() }.value()
}

fn number(head: &RequestHead, header: &str) -> Option<u64> {
    head.headers.text(header)?.parse().ok()
}

/// The share that the request asks for, at most the configured one.
fn share(configured: Fraction, head: &RequestHead, header: &str) -> Fraction {
    let numerator = number(head, header).map_or(configured.numerator, |asked| {
        u32::try_from(asked).map_or(configured.numerator, |asked| asked.min(configured.numerator))
    });
    Fraction { numerator, ..configured }
}

#[cfg(test)]
mod tests;
