//! Listener filters: what the first bytes of a connection say, before a filter chain is chosen.
//!
//! They run in the order of the configuration. The deadline is the caller's.

use std::sync::Arc;
use std::time::Instant;

use dp_http::info::{Address, Metadata};
use dp_net::proxy_protocol::{Proxied, ProxyProtocolError, read_header};
use dp_net::sniff;
use dp_observe::stats::{HttpInspectorStats, TlsInspectorStats};
use dp_snapshot::{Listener, ListenerFilter, ProxyFilter};

use crate::connection::{Early, Found};

/// Runs the listener filters.
pub(crate) async fn run(listener: &Listener, found: &mut Found, shard: usize) -> Result<(), Early> {
    for filter in &listener.filters {
        match filter {
            ListenerFilter::ProxyProtocol(filter) => proxy_header(listener, filter, found, shard).await?,
            ListenerFilter::TlsInspector { limit, only_tls, stats } => {
                client_hello(found, (*limit, *only_tls), stats, shard).await?;
            }
            ListenerFilter::HttpInspector(stats) => request_line(found, stats, shard).await?,
            ListenerFilter::OriginalDst => {
                if let Some(address) = found.stream.stream().original_destination() {
                    found.info.local = Address::Ip(address);
                    found.info.is_restored = true;
                }
            }
            ListenerFilter::LocalRateLimit(limit) => {
                limit.admit(Instant::now(), shard).map_err(|_| Early::Filter)?;
            }
        }
    }
    Ok(())
}

/// Looks for a ClientHello.
async fn client_hello(
    found: &mut Found,
    (limit, only_tls): (usize, bool),
    stats: &TlsInspectorStats,
    shard: usize,
) -> Result<(), Early> {
    let hello = match sniff::tls(&mut found.stream, limit).await.map_err(|_| Early::Left)? {
        sniff::Tls::Hello(hello) => hello,
        sniff::Tls::Ended => return Err(Early::Left),
        sniff::Tls::No if only_tls => return Err(Early::Filter),
        sniff::Tls::No => {
            stats.tls_not_found().inc(shard);
            return Ok(());
        }
        sniff::Tls::TooLarge => {
            stats.client_hello_too_large().inc(shard);
            return Err(Early::Filter);
        }
    };
    stats.tls_found().inc(shard);
    if hello.server_name.is_some() { stats.sni_found() } else { stats.sni_not_found() }.inc(shard);
    if hello.alpn.is_empty() { stats.alpn_not_found() } else { stats.alpn_found() }.inc(shard);
    found.is_tls = true;
    found.server_name = hello.server_name.map(Into::into);
    found.application_protocols = hello.alpn;
    Ok(())
}

/// Looks for a line of HTTP, unless TLS was found before.
async fn request_line(found: &mut Found, stats: &HttpInspectorStats, shard: usize) -> Result<(), Early> {
    if found.is_tls {
        return Ok(());
    }
    match sniff::http(&mut found.stream).await.map_err(|_| Early::Left)? {
        sniff::Http::Version(version) => {
            match version {
                "http/1.0" => stats.http10_found(),
                "h2c" => stats.http2_found(),
                _ => stats.http11_found(),
            }
            .inc(shard);
            found.application_protocols = vec![version.to_owned()];
        }
        sniff::Http::No => stats.http_not_found().inc(shard),
        sniff::Http::Ended => return Err(Early::Left),
    }
    Ok(())
}

/// Reads the PROXY header.
async fn proxy_header(listener: &Listener, filter: &ProxyFilter, found: &mut Found, shard: usize) -> Result<(), Early> {
    let header = read_header(&mut found.stream, filter.options).await;
    let header = header.map_err(|error| {
        tracing::debug!(listener = %listener.name, %error, "refused a connection");
        count_error(filter, &error, found, shard);
        match error {
            ProxyProtocolError::Ended | ProxyProtocolError::Io(_) => Early::Left,
            _ => Early::Filter,
        }
    })?;
    match header {
        Some(header) => {
            filter.versions[usize::from(header.version > 1)].found().inc(shard);
            take(filter, header, found);
        }
        None => filter.stats.not_found_allowed().inc(shard),
    }
    Ok(())
}

fn count_error(filter: &ProxyFilter, error: &ProxyProtocolError, found: &Found, shard: usize) {
    match error {
        ProxyProtocolError::Missing => filter.stats.not_found_disallowed().inc(shard),
        ProxyProtocolError::Version(version) => filter.versions[usize::from(*version > 1)].disallowed().inc(shard),
        // Version 2 begins with an empty line, version 1 with a word.
        _ => filter.versions[usize::from(found.stream.ahead().first() == Some(&b'\r'))].error().inc(shard),
    }
}

fn take(filter: &ProxyFilter, header: Proxied, found: &mut Found) {
    if let Some((source, destination)) = header.addresses {
        found.info.remote = Address::Ip(source);
        found.info.local = Address::Ip(destination);
        found.info.is_restored = true;
    }
    for (kind, value) in &header.tlvs {
        let Some(place) = filter.config.rules.get(kind) else { continue };
        let metadata: &mut Metadata = found.info.metadata.get_or_insert_default();
        // Envoy writes `!` where a value is not UTF-8.
        let text = String::from_utf8_lossy(value).replace(char::REPLACEMENT_CHARACTER, "!");
        metadata.entry(place.namespace.clone()).or_default().insert(place.key.clone(), text);
    }
    let passed = header.tlvs.into_iter().filter(|(kind, _)| filter.config.pass.admits(*kind));
    found.info.proxied = Some(passed.map(|(kind, value)| (kind, value.into())).collect::<Arc<[_]>>());
}
