//! The local_ratelimit filter: a request takes a token or is answered with 429.
//!
//! Buckets are shared by all workers, and by all snapshots in which their configuration stays the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dp_http::flags::Flags;
use dp_http::{LocalReply, RequestHead, ResponseHead, name};
use shared_config::core::Fraction;
use shared_config::http_filter::local_ratelimit::{Config, Override};
use shared_telemetry::stats;

use crate::bucket::Bucket;
use crate::fields::AddField;
use crate::filter::{Cx, Flow, HttpFilter};
use crate::matching::admits;
use crate::services::Scope;

mod descriptor;
mod limiter;

use descriptor::Generator;
use limiter::{Limiter, PerConnection};

stats! {
    /// `STAT_PREFIX.http_local_rate_limit.`
    struct Stats {
        counter enabled,
        counter ok,
        counter rate_limited,
        counter enforced,
    }
}

pub struct LocalRatelimit {
    config: Config,
    enabled: Fraction,
    enforced: Fraction,
    stats: Arc<Stats>,
    generators: Box<[Generator]>,
    limits: Limits,
    request_fields: Box<[AddField]>,
    response_fields: Box<[AddField]>,
}

enum Limits {
    Shared(Arc<Limiter>),
    PerConnection(Arc<PerConnection>),
}

/// The bucket that the response tells about.
#[derive(Default)]
pub struct Told(Option<Arc<Bucket>>);

impl HttpFilter for LocalRatelimit {
    type Config = Config;
    type Override = Override;
    type Stream = Told;

    fn compile(config: &Config, overrides: &[&Override], scope: &Scope<'_>) -> Option<Self> {
        let config = overrides.last().map_or(config, |config| config);
        if !overrides.is_empty() && config.bucket.is_none() {
            scope.refuse("token_bucket: required on a route");
            return None;
        }
        let enabled = config.enabled.value();
        if enabled.numerator == 0 {
            return None;
        }
        // What the tokens depend on, and nothing else: another text for the reply must not fill the buckets.
        let identity =
            (&config.bucket, &config.descriptors, config.max_dynamic_descriptors, config.always_consume_default);
        let now = scope.services.now;
        let limits = if config.is_per_connection {
            Limits::PerConnection(scope.keep("local_ratelimit.connection", &identity, || PerConnection::new(config)))
        } else {
            Limits::Shared(scope.keep("local_ratelimit", &identity, || Limiter::new(config, now)))
        };
        let name = format!("{}.http_local_rate_limit", config.stat_prefix);
        let names = shared_telemetry::Scope::new(&name, "http_local_rate_limit")
            .label("envoy_local_http_ratelimit_prefix", &config.stat_prefix);
        Some(Self {
            enabled,
            enforced: config.enforced.value(),
            stats: Stats::register(scope.registry(), names),
            generators: config.rate_limits.iter().map(|limit| Generator::compile(limit, scope)).collect(),
            limits,
            request_fields: AddField::compile_all(&config.request_headers_when_not_enforced, scope),
            response_fields: AddField::compile_all(&config.response_headers, scope),
            config: config.clone(),
        })
    }

    fn on_request(&self, told: &mut Told, cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        if !admits(self.enabled, cx.random()) {
            return Flow::Continue;
        }
        self.stats.enabled().inc(cx.shard());
        let descriptors: Vec<_> =
            self.generators.iter().filter_map(|generator| generator.descriptor(cx.info, head)).collect();
        let verdict = match &self.limits {
            Limits::Shared(limiter) => limiter.ask(cx.now, &descriptors),
            Limits::PerConnection(limiters) => limiters.of(&cx.info.connection, cx.now).ask(cx.now, &descriptors),
        };
        let bucket = verdict.bucket;
        if self.config.x_ratelimit_headers {
            told.0.clone_from(&bucket);
        }
        if verdict.is_allowed {
            self.stats.ok().inc(cx.shard());
            return Flow::Continue;
        }
        self.stats.rate_limited().inc(cx.shard());
        if !admits(self.enforced, cx.random()) {
            for field in &self.request_fields {
                field.add_to_request(cx.info, head);
            }
            return Flow::Continue;
        }
        self.stats.enforced().inc(cx.shard());
        Flow::Reply(Box::new(self.reply(cx, head, bucket.as_deref())))
    }

    fn on_response(&self, told: &mut Told, cx: &mut Cx<'_>, head: &mut ResponseHead) -> Flow {
        if let Some(bucket) = &told.0 {
            for (name, number) in [
                ("x-ratelimit-limit", bucket.max_tokens()),
                ("x-ratelimit-remaining", bucket.remaining(cx.now)),
                ("x-ratelimit-reset", seconds(bucket.next_token(cx.now))),
            ] {
                head.headers.append(name, number.to_string().as_bytes());
            }
        }
        Flow::Continue
    }
}

impl LocalRatelimit {
    fn reply(&self, cx: &Cx<'_>, head: &RequestHead, bucket: Option<&Bucket>) -> LocalReply {
        let mut reply = LocalReply::new(self.config.status, "local_rate_limited")
            .body(Bytes::from_static(b"local_rate_limited"))
            .flag(Flags::RATE_LIMITED);
        for field in &self.response_fields {
            field.add_to_reply(cx.info, head, &mut reply.headers);
        }
        if self.config.retry_after
            && let Some(bucket) = bucket
        {
            reply.headers.set(&name::RETRY_AFTER, seconds(bucket.next_token(cx.now)).to_string().as_bytes());
        }
        reply.grpc_status = self.config.resource_exhausted.then_some(8);
        reply
    }
}

/// Whole seconds, rounded up.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests;
