//! A head that is safe to act on: path, host, `x-forwarded-*`, request id, hop-by-hop fields, both ways.
//!
//! Follows Envoy's connection manager. Believes a header of a client only as far as the configuration says.

use std::net::IpAddr;

use dp_http::info::{Address, IpText};
use dp_http::stream::ServerStream;
use dp_http::{HeaderName, Headers, LocalReply, Method, NameSet, Protocol, ResponseHead, Scheme, name};
use shared_config::hcm::{AddressDetection, HttpConnectionManager, ServerHeader};

use crate::connection::Connection;
use crate::fault::Fault;
use crate::stream::Stream;

mod client_cert;
mod forwarded;
mod path;
mod upstream;

pub(crate) use upstream::{attempt, from_upstream, prepare, set_path};

/// Headers by which a stranger could steer the proxy (Envoy strips them from all requests that are not internal).
static STEERING: NameSet = NameSet::of(&[
    &name::X_ENVOY_RETRY_ON,
    &name::X_ENVOY_RETRY_GRPC_ON,
    &name::X_ENVOY_MAX_RETRIES,
    &name::X_ENVOY_RETRIABLE_STATUS_CODES,
    &name::X_ENVOY_RETRIABLE_HEADER_NAMES,
    &name::X_ENVOY_UPSTREAM_ALT_STAT_NAME,
    &name::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
    &name::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
    &name::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE,
    &name::X_ENVOY_UPSTREAM_STREAM_DURATION_MS,
    &name::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS,
    &name::X_ENVOY_FORCE_TRACE,
    &name::X_ENVOY_IP_TAGS,
    &name::X_ENVOY_ORIGINAL_URL,
    &name::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
]);

/// What only proxies of ours may have written (Envoy strips them from requests that come in from outside).
static OURS: NameSet = NameSet::of(&[
    &name::X_ENVOY_DECORATOR_OPERATION,
    &name::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER,
    &name::X_ENVOY_DOWNSTREAM_SERVICE_NODE,
    &name::X_ENVOY_ORIGINAL_PATH,
    &name::X_ENVOY_ORIGINAL_HOST,
]);

/// Makes the head of a request one that routes and filters can believe.
pub(crate) fn request(stream: &mut Stream<'_>) -> Result<(), Fault> {
    let hcm = stream.rules.hcm;
    let config = &hcm.config;
    check_host(stream, config)?;
    request_path(stream, config)?;
    host(stream, config);
    hop_by_hop(stream)?;
    stream.request.headers.remove(&name::X_ENVOY_INTERNAL);
    let edge = who(stream, config)?;
    if edge {
        stream.request.headers.remove_all(OURS);
    }
    if !stream.info.internal {
        stream.request.headers.remove_all(STEERING);
        for field in &hcm.internal_only {
            stream.request.headers.remove(field);
        }
    }
    if edge {
        if let Some(client) = stream.info.client.ip() {
            let text = stream.conn.remote_text.filter(|_| stream.conn.info.remote.ip() == Some(client));
            let text = text.unwrap_or_else(|| IpText::new(client));
            stream.request.headers.set(&name::X_ENVOY_EXTERNAL_ADDRESS, text.as_bytes());
        }
    } else if stream.info.internal {
        stream.request.headers.set(&name::X_ENVOY_INTERNAL, b"true");
    }
    if let Some(cluster) = &hcm.user_agent {
        stream.request.headers.set(&name::USER_AGENT, cluster.as_bytes());
        stream.request.headers.set(&name::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, cluster.as_bytes());
    }
    scheme(stream, config);
    client_cert::apply(&mut stream.request.headers, &stream.conn.info, &config.client_certificate);
    request_id(stream, config, edge);
    if !config.via.is_empty() {
        append_list(&mut stream.request.headers, &name::VIA, b", ", config.via.as_bytes());
    }
    expect(stream, config)
}

fn check_host(stream: &mut Stream<'_>, config: &HttpConnectionManager) -> Result<(), Fault> {
    let head = &mut stream.request;
    if head.protocol == Protocol::Http10 && !config.http1.accept_http_10 {
        let reply = LocalReply::new(426, "low_version");
        return Err(Fault::Reply(Box::new(reply)));
    }
    if head.authority().is_empty() {
        let default = &config.http1.default_host_for_http_10;
        if head.protocol != Protocol::Http10 {
            return Err(Fault::MissingHost);
        }
        if !default.is_empty() {
            head.set_authority(default);
        }
    }
    Ok(())
}

fn request_path(stream: &mut Stream<'_>, config: &HttpConnectionManager) -> Result<(), Fault> {
    use path::{EscapedSlashes, Slashes};
    let head = &mut stream.request;
    if head.method == Method::Connect && head.connect_protocol().is_none() || head.path() == "*" {
        return Ok(());
    }
    if !head.path().starts_with('/') {
        let details = if head.path().is_empty() { "missing_path_rejected" } else { "absolute_path_rejected" };
        return Err(Fault::Reply(Box::new(LocalReply::new(404, details))));
    }
    // A correct client never sends a fragment; what follows it must not decide anything (CVE-2021-32779).
    if head.path().contains('#') {
        return Err(Fault::PathEscape);
    }
    let action = match config.path.escaped_slashes {
        shared_config::hcm::EscapedSlashes::Keep => EscapedSlashes::Keep,
        shared_config::hcm::EscapedSlashes::Reject => EscapedSlashes::Reject,
        shared_config::hcm::EscapedSlashes::UnescapeAndRedirect => EscapedSlashes::UnescapeAndRedirect,
        shared_config::hcm::EscapedSlashes::UnescapeAndForward => EscapedSlashes::UnescapeAndForward,
    };
    let (unescaped, redirect) = match path::escaped_slashes(head.path(), action) {
        Slashes::Rejected => return Err(Fault::PathEscape),
        Slashes::Redirect(path) => (std::borrow::Cow::Owned(path), true),
        Slashes::Kept(path) => (path, false),
    };
    let normal = if config.path.normalize {
        path::normalize(&unescaped).ok_or(Fault::PathEscape)?
    } else {
        std::borrow::Cow::Borrowed(&*unescaped)
    };
    let merged =
        if config.path.merge_slashes { path::merge_slashes(&normal) } else { std::borrow::Cow::Borrowed(&*normal) };
    if merged != head.path() {
        let path = merged.into_owned();
        head.set_path(&path);
        if redirect && crate::reply::is_grpc(&head.headers) {
            // A gRPC client follows no redirect.
            return Err(Fault::PathEscape);
        }
        if redirect {
            let mut reply = LocalReply::new(307, "path_normalization_failed");
            // Two slashes in front, or `/\`, would begin another host (RFC 3986 §4.2), chosen by whoever made the link.
            let path = if path[1..].starts_with(['/', '\\']) { ["/.", &path].concat() } else { path };
            reply.headers.append(&name::LOCATION, path.as_bytes());
            return Err(Fault::Reply(Box::new(reply)));
        }
    }
    Ok(())
}

/// Strips port and trailing dot where asked.
fn host(stream: &mut Stream<'_>, config: &HttpConnectionManager) {
    use shared_config::hcm::StripPort;
    let head = &mut stream.request;
    let authority = head.authority();
    let mut host = authority;
    if let Some(at) = port_at(authority) {
        let strip = match config.host.strip_port {
            StripPort::Keep => false,
            StripPort::Any => authority[at + 1..].parse::<u16>().is_ok(),
            StripPort::Matching => authority[at + 1..].parse().ok() == stream.conn.info.local.port(),
        };
        if strip && head.method != Method::Connect {
            host = &authority[..at];
        }
    }
    if config.host.strip_trailing_dot {
        let (name, port) = host.split_at(port_at(host).unwrap_or(host.len()));
        if let Some(name) = name.strip_suffix('.') {
            let stripped = format!("{name}{port}");
            head.set_authority(&stripped);
            return;
        }
    }
    if host.len() != authority.len() {
        let host = host.to_owned();
        head.set_authority(&host);
    }
}

/// Where the `:` before a port stands; the colons of an IPv6 address in brackets are none.
fn port_at(authority: &str) -> Option<usize> {
    authority.rfind(':').filter(|at| !authority[*at..].contains(']'))
}

/// Removes what concerned only the client's connection (RFC 9110 §7.6.1). What it upgrades to is in the head itself.
fn hop_by_hop(stream: &mut Stream<'_>) -> Result<(), Fault> {
    stream.request.headers.remove_hop_by_hop().map_err(|_| Fault::BadRequest("invalid_connection_header"))
}

/// Finds the client and says whether this is an edge request: one from outside that we must not believe.
fn who(stream: &mut Stream<'_>, config: &HttpConnectionManager) -> Result<bool, Fault> {
    let client = &config.client;
    let tls = stream.conn.info.tls.is_some();
    let headers = &mut stream.request.headers;
    let mut trust = false;
    if client.use_remote_address {
        let hops = client.xff_trusted_hops as usize;
        stream.info.client = match hops.checked_sub(1).and_then(|hops| trusted(headers, hops)) {
            Some(ip) => Address::Ip((ip, 0).into()),
            None => stream.conn.info.remote.clone(),
        };
        trust = !headers.contains(&name::X_FORWARDED_FOR);
        if !client.skip_xff_append {
            append_forwarded_for(headers, stream.conn, client.as_mapped_ipv6);
        }
        if hops == 0 || !headers.contains(&name::X_FORWARDED_PROTO) {
            headers.set(&name::X_FORWARDED_PROTO, if tls { b"https" } else { b"http" });
        }
    } else if client.detection.is_empty() {
        trust = forwarded::is_single(headers.all(&name::X_FORWARDED_FOR));
        if let Some(ip) = trusted(headers, client.xff_trusted_hops as usize) {
            stream.info.client = Address::Ip((ip, 0).into());
        }
    } else if let Some((ip, trusted)) = detect(&client.detection, headers, stream.conn)? {
        trust = trusted;
        stream.info.client = Address::Ip((ip, 0).into());
    }
    if !headers.contains(&name::X_FORWARDED_PROTO) {
        headers.set(&name::X_FORWARDED_PROTO, if tls { b"https" } else { b"http" });
    }
    if client.append_x_forwarded_port
        && let Some(port) = stream.conn.info.local.port()
        && (client.use_remote_address && client.xff_trusted_hops == 0 || !headers.contains(&name::X_FORWARDED_PORT))
    {
        headers.set_number(&name::X_FORWARDED_PORT, u64::from(port));
    }
    let internal = &client.internal;
    let is_internal = match stream.info.client.ip() {
        Some(ip) => internal.ranges.iter().any(|range| range.contains(&ip)),
        None => internal.unix_sockets,
    };
    stream.info.internal = trust && is_internal;
    Ok(!stream.info.internal && client.use_remote_address)
}

fn append_forwarded_for(headers: &mut Headers, conn: &Connection, as_mapped_ipv6: bool) {
    let text = match conn.info.remote.ip() {
        Some(IpAddr::V4(ip)) if as_mapped_ipv6 => Some(IpText::new(IpAddr::V6(ip.to_ipv6_mapped()))),
        _ => conn.remote_text,
    };
    if let Some(text) = text {
        append_list(headers, &name::X_FORWARDED_FOR, b",", text.as_bytes());
    }
}

fn trusted(headers: &Headers, hops: usize) -> Option<IpAddr> {
    let fields: smallvec::SmallVec<[&[u8]; 4]> = headers.all(&name::X_FORWARDED_FOR).collect();
    forwarded::nth_from_right(fields.into_iter(), hops)
}

/// Asks the detection extensions in turn for the client's address, and whether it may make the client internal.
fn detect(
    detections: &[AddressDetection],
    headers: &mut Headers,
    conn: &Connection,
) -> Result<Option<(IpAddr, bool)>, Fault> {
    for detection in detections {
        let found = match detection {
            AddressDetection::Xff { trusted_hops, trusted_ranges, skip_append } => {
                let single = forwarded::is_single(headers.all(&name::X_FORWARDED_FOR));
                let found = if trusted_ranges.is_empty() {
                    trusted(headers, *trusted_hops as usize)
                } else {
                    let fields: smallvec::SmallVec<[&[u8]; 4]> = headers.all(&name::X_FORWARDED_FOR).collect();
                    let near =
                        conn.info.remote.ip().is_some_and(|ip| trusted_ranges.iter().any(|range| range.contains(&ip)));
                    if near { forwarded::first_outside(fields.into_iter(), trusted_ranges) } else { None }
                };
                if !skip_append {
                    append_forwarded_for(headers, conn, false);
                }
                found.map(|ip| (ip, single))
            }
            AddressDetection::Header { name, trusted, reject_with } => {
                match (headers.text(name.as_str()).and_then(|text| text.trim().parse().ok()), reject_with) {
                    (Some(ip), _) => Some((ip, *trusted)),
                    (None, Some(status)) => {
                        let reply = LocalReply::new(*status, "original_ip_detection_failed");
                        return Err(Fault::Reply(Box::new(reply)));
                    }
                    (None, None) => None,
                }
            }
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Adds an entry to a comma-separated field; what comes before it is put on one line.
pub(crate) fn append_list(headers: &mut Headers, field: &HeaderName, separator: &[u8], entry: &[u8]) {
    if headers.get(field).is_none_or(<[u8]>::is_empty) {
        return headers.set(field, entry);
    }
    let mut all = Vec::new();
    for value in headers.all(field) {
        if !all.is_empty() {
            all.push(b',');
        }
        all.extend_from_slice(value);
    }
    all.extend_from_slice(separator);
    all.extend_from_slice(entry);
    headers.set(field, &all);
}

/// The scheme the client used, as far as it can be known. What the upstream is told is decided in `upstream.rs`.
fn scheme(stream: &mut Stream<'_>, config: &HttpConnectionManager) {
    use shared_config::hcm::Scheme as Option;
    match config.scheme {
        Option::Http => stream.request.headers.set(&name::X_FORWARDED_PROTO, b"http"),
        Option::Https => stream.request.headers.set(&name::X_FORWARDED_PROTO, b"https"),
        Option::Keep | Option::MatchUpstream => {}
    }
    let is_https = came_by(&stream.request.headers, |scheme| scheme.eq_ignore_ascii_case(b"https"));
    stream.request.scheme = if is_https { Scheme::Https } else { Scheme::Http };
}

/// Whether the client used TLS, as routes ask it: the spelling counts, as in Envoy.
pub(crate) fn is_https(headers: &Headers) -> bool {
    came_by(headers, |scheme| scheme == b"https")
}

/// Whether `x-forwarded-proto` says so. When there are several, some of them are a stranger's: all have to.
fn came_by(headers: &Headers, is: impl Fn(&[u8]) -> bool) -> bool {
    headers.contains(&name::X_FORWARDED_PROTO) && headers.all(&name::X_FORWARDED_PROTO).all(is)
}

fn request_id(stream: &mut Stream<'_>, config: &HttpConnectionManager, edge: bool) {
    let headers = &mut stream.request.headers;
    let there = headers.text(&name::X_REQUEST_ID).is_some_and(|id| !id.is_empty());
    if config.request_id.generate && (!there || (edge && !config.request_id.preserve_external)) {
        let random = uuid::Builder::from_random_bytes(std::array::from_fn(|_| fastrand::u8(..))).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text: &str = random.hyphenated().encode_lower(&mut text);
        headers.set(&name::X_REQUEST_ID, text.as_bytes());
    }
    stream.info.request_id = headers.text(&name::X_REQUEST_ID).unwrap_or_default().to_owned();
}

/// Answers `expect: 100-continue` here, unless the upstream is to do it (Envoy `proxy_100_continue`). An expectation that
/// is another one, or that has no body to wait for, would be read in different ways behind us, so it goes no further.
fn expect(stream: &mut Stream<'_>, config: &HttpConnectionManager) -> Result<(), Fault> {
    let headers = &mut stream.request.headers;
    if !headers.contains(&name::EXPECT) {
        return Ok(());
    }
    if headers.all(&name::EXPECT).any(|value| !value.eq_ignore_ascii_case(b"100-continue")) {
        return Err(Fault::Reply(Box::new(LocalReply::new(417, "unknown_expectation"))));
    }
    let waits = stream.down.expects_continue() && !stream.body.complete;
    if waits && config.proxy_100_continue {
        return Ok(());
    }
    headers.remove(&name::EXPECT);
    if waits {
        // A client that is gone is noticed when its body is read.
        let _ = stream.down.send_informational(&ResponseHead::new(100));
    }
    Ok(())
}

/// Says in the answer when it is the last one of an HTTP/1 connection: the connection drains by now, or the request is
/// not complete yet. Nobody waits for what is left of an answered request, and the next one would begin behind it.
fn close_if_last(stream: &mut Stream<'_>, opens: bool) {
    if let ServerStream::H1(codec) = &mut stream.down
        && !opens
        && (!codec.is_request_complete() || stream.conn.is_draining())
    {
        codec.close_after_response();
    }
}

/// Makes the head of a response one for this client. `opens`: it opens a tunnel.
pub(crate) fn response(stream: &mut Stream<'_>, head: &mut ResponseHead, opens: bool) {
    let hcm = stream.rules.hcm;
    let config = &hcm.config;
    close_if_last(stream, opens);
    // A response that names the connection in a way that makes no sense loses what it named, not more.
    let _ = head.headers.remove_hop_by_hop();
    if opens && let Some(tunnel) = &stream.tunnel {
        let key = stream.request.headers.get(&name::SEC_WEBSOCKET_KEY).filter(|_| stream.client_is_http1());
        crate::tunnel::answer(head, tunnel, key);
    }
    match config.server_header {
        ServerHeader::Overwrite => head.headers.set(&name::SERVER, config.server_name.as_bytes()),
        ServerHeader::AppendIfAbsent if head.headers.contains(&name::SERVER) => {}
        ServerHeader::AppendIfAbsent => head.headers.append(&name::SERVER, config.server_name.as_bytes()),
        ServerHeader::PassThrough => {}
    }
    if !head.headers.contains(&name::DATE) {
        crate::date::with_now(|date| head.headers.append(&name::DATE, date));
    }
    if (config.request_id.in_response || stream.request.headers.contains(&name::X_ENVOY_FORCE_TRACE))
        && let Some(id) = stream.request.headers.get(&name::X_REQUEST_ID)
    {
        head.headers.set(&name::X_REQUEST_ID, id);
    }
    if !config.via.is_empty() {
        append_list(&mut head.headers, &name::VIA, b", ", config.via.as_bytes());
    }
}
