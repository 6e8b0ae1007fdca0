//! The fault filter: delays, aborts and slow responses for a share of the requests.
//!
//! A route's configuration replaces the one of the chain as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use dp_http::flags::Flags;
use dp_http::{LocalReply, RequestHead, StreamInfo};
use shared_config::core::Fraction;
use shared_config::http_filter::fault::{Abort, Config, Delay, Override, Rate};

use crate::filter::{Cx, Flow, HeaderEdits, HttpFilter, Verdict};
use crate::matching::{HeaderMatch, admits};
use crate::services::Scope;

pub struct Fault {
    config: Config,
    headers: Box<[HeaderMatch]>,
    abort_body: Bytes,
    /// Streams that suffer a fault now, on all workers and routes with this configuration.
    active: Arc<AtomicU64>,
}

/// Whether this stream is counted as active.
type Active = bool;

impl HttpFilter for Fault {
    type Config = Config;
    type Override = Override;
    type Stream = Active;

    fn compile(config: &Config, overrides: &[&Override], scope: &Scope<'_>) -> Option<Self> {
        let config = overrides.last().map_or(config, |config| config);
        if config.delay.is_none() && config.abort.is_none() && config.response_rate_limit.is_none() {
            return None;
        }
        let body = if config.abort_body.is_empty() { "fault filter abort" } else { &config.abort_body };
        Some(Self {
            config: config.clone(),
            headers: HeaderMatch::all(&config.headers),
            abort_body: Bytes::copy_from_slice(body.as_bytes()),
            active: scope.keep("fault", config, || AtomicU64::new(0)),
        })
    }

    fn on_request(&self, active: &mut Active, cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        if !self.applies(cx, head) {
            return Flow::Continue;
        }
        if let Some(rate) = self.rate(cx, head) {
            self.activate(active);
            cx.pace_response(rate);
        }
        let delay = self.delay(cx, head);
        let abort = self.abort(cx, head);
        if delay.is_some() || abort.is_some() {
            self.activate(active);
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

    fn on_end(&self, active: &mut Active, _info: &StreamInfo) {
        if std::mem::take(active) {
            self.active.fetch_sub(1, Relaxed);
        }
    }
}

impl Fault {
    fn applies(&self, cx: &Cx<'_>, head: &RequestHead) -> bool {
        let config = &self.config;
        // Two workers may both pass at the edge; like Envoy's, this limit is not exact.
        if config.max_active_faults.is_some_and(|max| self.active.load(Relaxed) >= max.into()) {
            return false;
        }
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
        self.headers.iter().all(|header| header.matches(head))
    }

    fn activate(&self, active: &mut Active) {
        if !std::mem::replace(active, true) {
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
