//! Compiles an HTTP connection manager: codecs, filters, routes, logs.

use std::sync::Arc;
use std::time::Duration;

use dp_filters::Compiler;
use dp_http::h1::Underscores;
use dp_http::h2::{FrameLimits, Limits, Ping};
use dp_http::{HeaderName, h1, h2};
use dp_observe::stats::HttpStats;
use shared_config::hcm::{HeadersWithUnderscores, HttpConnectionManager as Config, RouteSource};
use shared_config::http_filter::{FilterSource, HttpFilter, HttpFilterConfig};
use shared_config::route::RouteConfiguration;
use shared_telemetry::Scope;

use super::{Environment, ListenerInputs, Refusal, access_logs, local_reply, names, route};
use crate::runtime::Hcm;

/// Compiles one connection manager. `place` names it: listener and filter chain.
pub(super) fn compile(
    config: &Config,
    place: &str,
    inputs: &ListenerInputs,
    environment: &mut Environment,
) -> Result<Hcm, Refusal> {
    let local_replies = local_reply::compile(&config.local_reply, environment)?;
    let discovered = |name: &str| inputs.filters.get(name).cloned().flatten();
    let empty = RouteConfiguration::default();
    let is_inline = matches!(config.routes, RouteSource::Inline(_));
    let routes = match &config.routes {
        RouteSource::Inline(routes) => &**routes,
        // A listener whose routes nobody has answers 404.
        RouteSource::Rds { name, .. } => inputs.routes.get(name).and_then(Option::as_deref).unwrap_or(&empty),
    };
    let mut files = std::mem::take(&mut environment.files);
    let caches = names::Caches(&environment.names);
    let services = environment.services(&config.stat_prefix, &caches, &discovered);
    let compiler = Compiler::new(&config.http_filters, place, &services);
    let table = route::table(routes, &compiler, &mut files);
    let filters = compiler.chain(&[]);
    let problems = compiler.problems();
    drop(compiler);
    environment.files = files;
    route::check_clusters(routes, is_inline, &inputs.clusters)?;
    if let Some(problem) = problems.first() {
        return Err(Refusal(problem.to_string()).at("http_filters"));
    }
    let internal_only = routes.internal_only_headers.iter().map(|name| HeaderName::new(name));
    Ok(Hcm {
        internal_only: internal_only.collect::<Result<_, _>>()?,
        routes: table.map_err(|refusal| refusal.at(format!("routes {}", routes.name)))?,
        filters,
        http1: Arc::new(http1(config)),
        http2: Arc::new(http2(config)),
        stats: HttpStats::register(&environment.registry, Scope::http(&config.stat_prefix)),
        access_logs: access_logs(&config.access_logs, environment)?,
        local_replies,
        buffer_limit: inputs.config.per_connection_buffer_limit as usize,
        forwards_names: config.http_filters.iter().any(is_forward_proxy),
        user_agent: config.add_user_agent.then(|| Arc::clone(&environment.node_cluster)),
        config: Arc::new(config.clone()),
    })
}

/// Whether the filter needs to know of dynamic forward proxy clusters; what discovery brings may be one.
fn is_forward_proxy(filter: &HttpFilter) -> bool {
    match &filter.source {
        FilterSource::Config(config) => matches!(config, HttpFilterConfig::DynamicForwardProxy(_)),
        FilterSource::Discovery(_) => true,
    }
}

fn http1(config: &Config) -> h1::ServerOptions {
    h1::ServerOptions {
        max_head_size: config.max_request_headers_kb as usize * 1024,
        max_headers: config.http.max_headers_count as usize,
        underscores: match config.http.headers_with_underscores {
            HeadersWithUnderscores::Allow => Underscores::Allow,
            HeadersWithUnderscores::Reject => Underscores::Reject,
            HeadersWithUnderscores::Drop => Underscores::Drop,
        },
        trailers: config.http1.enable_trailers,
        proper_case: config.http1.proper_case_words,
        accept_http10: config.http1.accept_http_10,
        absolute_urls: config.http1.allow_absolute_url,
        chunked_length: config.http1.allow_chunked_length,
        ..h1::ServerOptions::default()
    }
}

fn http2(config: &Config) -> h2::ServerOptions {
    let options = &config.http2;
    let default = Limits::default();
    h2::ServerOptions {
        limits: Limits {
            // Envoy's default since 1.36; a client may open this many streams at once.
            max_concurrent_streams: options.max_concurrent_streams.unwrap_or(1024),
            initial_stream_window: options.initial_stream_window_size.unwrap_or(default.initial_stream_window),
            initial_connection_window: options
                .initial_connection_window_size
                .unwrap_or(default.initial_connection_window),
            max_header_list_size: config.max_request_headers_kb * 1024,
            max_headers: config.http.max_headers_count as usize,
            header_table_size: options.hpack_table_size.unwrap_or(default.header_table_size),
            ping: options.keepalive.and_then(|keepalive| {
                let interval = keepalive.interval.filter(|interval| *interval > Duration::ZERO)?;
                let jitter = interval.mul_f64(f64::from(keepalive.jitter_percent) / 100.0);
                Some(Ping { interval, timeout: keepalive.timeout, jitter })
            }),
            ..default
        },
        frames: FrameLimits {
            empty: options.frames.empty,
            priority: options.frames.priority,
            window_updates: options.frames.window_updates,
        },
        enable_connect_protocol: options.allow_connect,
    }
}
