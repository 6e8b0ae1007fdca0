//! What an operator stands for in one stream.

use std::fmt::Write;

use dp_http::head::Protocol;
use dp_http::info::{Address, Metadata, PeerCertificate, TlsInfo};
use dp_http::{Field, Headers, RequestHead, StreamInfo, name};

use crate::json::push_quoted;
use crate::operator::{
    Certificate, GrpcForm, MetadataSource, Number, Operator, Part, Side, Text, Time, WhichPath, Whose,
};
use crate::{Inputs, query};

/// Appends the value to `out`; `false` when there is none, and then nothing was appended.
pub(crate) fn write_operator(operator: &Operator, inputs: &Inputs<'_>, out: &mut String) -> bool {
    let info = inputs.info;
    match operator {
        Operator::Constant(text) => push(out, Some(text)),
        Operator::Request { main, alternative } => {
            let Some(head) = inputs.request else { return false };
            let value = main.in_request(head).or_else(|| alternative.as_ref()?.in_request(head));
            push_bytes(out, value)
        }
        Operator::Response { main, alternative } => {
            let Some(head) = inputs.response else { return false };
            let value = main.in_response(head).or_else(|| alternative.as_ref()?.in_response(head));
            push_bytes(out, value.as_deref())
        }
        Operator::Trailer { main, alternative } => {
            let Some(trailers) = inputs.trailers else { return false };
            let value = field(trailers, main).or_else(|| field(trailers, alternative.as_ref()?));
            push_bytes(out, value)
        }
        Operator::Time { which, format } => match time(*which, info) {
            Some(time) => {
                format.write(time, out);
                true
            }
            None => false,
        },
        Operator::Duration(span) => push_number(out, span.measure(info)),
        Operator::Number(which) => push_number(out, number(*which, inputs)),
        Operator::Text(which) => write_text(*which, inputs, out),
        Operator::Address { whose, part } => write_address(address(*whose, info), *part, out),
        Operator::Certificate { side, part } => write_certificate(tls(*side, info), *part, out),
        Operator::ResponseCodeDetails { keep_whitespace } => {
            let start = out.len();
            if *keep_whitespace {
                out.push_str(&info.details);
            } else {
                out.extend(info.details.chars().map(|c| if c.is_ascii_whitespace() { '_' } else { c }));
            }
            out.len() > start
        }
        Operator::GrpcStatus(form) => write_grpc_status(*form, inputs, out),
        Operator::Metadata { source, filter, path } => push(out, metadata(*source, info, filter, path)),
        Operator::FilterState { key, typed } => match info.filter_object(key) {
            Some(object) if *typed => {
                push_quoted(&object.text, out);
                true
            }
            object => push(out, object.map(|object| &object.text)),
        },
        Operator::Path { query, which } => push(out, path(inputs, *query, *which)),
        Operator::QueryParameter(parameter) => {
            let value = inputs.request.and_then(|head| query::parameter(head.query(), parameter));
            push(out, value.filter(|value| !value.is_empty()))
        }
    }
}

fn push(out: &mut String, text: Option<impl AsRef<str>>) -> bool {
    match text {
        Some(text) => {
            out.push_str(text.as_ref());
            true
        }
        None => false,
    }
}

/// Bytes that are no UTF-8 become replacement characters: logs and headers are text.
fn push_bytes(out: &mut String, bytes: Option<&[u8]>) -> bool {
    match bytes {
        Some(bytes) => {
            match std::str::from_utf8(bytes) {
                Ok(text) => out.push_str(text),
                Err(_) => out.push_str(&String::from_utf8_lossy(bytes)),
            }
            true
        }
        None => false,
    }
}

fn push_number(out: &mut String, number: Option<u64>) -> bool {
    // Writing to a String cannot fail.
    number.is_some_and(|number| write!(out, "{number}").is_ok())
}

fn field<'a>(trailers: &'a Headers, field: &Field) -> Option<&'a [u8]> {
    match field {
        Field::Header(name) => trailers.get(name),
        _ => None,
    }
}

fn time(which: Time, info: &StreamInfo) -> Option<std::time::SystemTime> {
    match which {
        Time::Start => Some(info.start),
        Time::Emit => Some(info.start + info.duration.unwrap_or_default()),
        Time::NotBefore(side) => tls(side, info)?.peer.as_ref()?.not_before,
        Time::NotAfter(side) => tls(side, info)?.peer.as_ref()?.not_after,
    }
}

pub(crate) fn number(which: Number, inputs: &Inputs<'_>) -> Option<u64> {
    let info = inputs.info;
    Some(match which {
        Number::ResponseCode => info.status.into(),
        Number::BytesReceived => info.sizes.received,
        Number::BytesSent => info.sizes.sent,
        Number::UpstreamWireSent => info.sizes.upstream_sent,
        Number::UpstreamWireReceived => info.sizes.upstream_received,
        Number::RequestHeaderBytes => inputs.request.map_or(0, request_bytes),
        Number::ResponseHeaderBytes => inputs.response.map_or(0, |head| field_bytes(&head.headers) + 10),
        Number::ResponseTrailerBytes => inputs.trailers.map_or(0, field_bytes),
        Number::Attempts => info.upstream.attempts.into(),
        Number::ConnectionId => info.connection.id,
        Number::UpstreamConnectionId => match info.upstream.connection_id {
            0 => return None,
            id => id,
        },
        Number::GrpcStatus => grpc_status(inputs)?.into(),
    })
}

/// Names and values as Envoy counts them, pseudo-headers included.
fn request_bytes(head: &RequestHead) -> u64 {
    let pseudo = [
        (":method", head.method.as_str()),
        (":scheme", head.scheme.as_str()),
        (":authority", head.authority()),
        (":path", head.path()),
    ];
    let pseudo: usize =
        pseudo.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| name.len() + value.len()).sum();
    pseudo as u64 + field_bytes(&head.headers)
}

fn field_bytes(headers: &Headers) -> u64 {
    headers.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
}

fn write_text(which: Text, inputs: &Inputs<'_>, out: &mut String) -> bool {
    let info = inputs.info;
    match which {
        // Without a request it is a connection.
        Text::Protocol => push(out, inputs.request.map(|_| info.protocol.as_str())),
        Text::UpstreamProtocol => push(out, info.upstream.protocol.map(Protocol::as_str)),
        // Envoy has this for a value of its own, not for a missing one.
        Text::ResponseFlags | Text::ResponseFlagsLong if info.flags.is_empty() => push(out, Some("-")),
        Text::ResponseFlags => {
            info.flags.write_short(out);
            true
        }
        Text::ResponseFlagsLong => write_long_flags(info, out),
        Text::TerminationDetails => push(out, some(&info.termination)),
        Text::UpstreamCluster => push(out, info.upstream.cluster.as_ref()),
        Text::UpstreamHostName => push(out, info.upstream.host_name.as_ref()),
        Text::UpstreamHostNameWithoutPort => push(out, info.upstream.host_name.as_deref().map(without_port)),
        Text::UpstreamFailure => match &info.upstream.failure {
            // Access logs are split at blanks; Envoy writes this one without them too.
            Some(failure) => {
                out.extend(failure.chars().map(|c| if c.is_ascii_whitespace() { '_' } else { c }));
                true
            }
            None => false,
        },
        Text::UpstreamServerName => push(out, tls(Side::Upstream, info).and_then(|tls| tls.sni.as_ref())),
        Text::RequestedServerName => push(out, info.connection.requested_server_name.as_ref()),
        Text::RouteName => push(out, info.route.as_deref().and_then(some)),
        Text::VirtualHostName => push(out, info.virtual_host.as_deref().and_then(some)),
        Text::StreamId => push(out, some(&info.request_id)),
        Text::LocalReplyBody => push(out, Some(inputs.local_reply_body)),
        Text::FilterChainName => push(out, some(&info.connection.filter_chain)),
        Text::TlsVersion(side) => push(out, tls(side, info).and_then(|tls| some(tls.version))),
        Text::TlsCipher(side) => push(out, tls(side, info).and_then(|tls| some(tls.cipher))),
        Text::AccessLogType => push(out, Some(info.log_type)),
        Text::Nothing => false,
    }
}

/// `None` for an empty text.
fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn write_long_flags(info: &StreamInfo, out: &mut String) -> bool {
    let mut separator = "";
    for (_, _, long) in dp_http::flags::ALL.iter().filter(|(flag, ..)| info.flags.has(*flag)) {
        out.push_str(std::mem::replace(&mut separator, ","));
        out.push_str(long);
    }
    !separator.is_empty()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn tls(side: Side, info: &StreamInfo) -> Option<&TlsInfo> {
    match side {
        Side::Downstream => info.connection.tls.as_ref(),
        Side::Upstream => info.upstream.tls.as_ref(),
    }
}

// === addresses ===

fn address(whose: Whose, info: &StreamInfo) -> Option<&Address> {
    match whose {
        Whose::Client => Some(&info.client),
        Whose::Direct => Some(&info.connection.direct_remote),
        Whose::Local => Some(&info.connection.local),
        Whose::UpstreamHost => info.upstream.host.as_ref(),
        Whose::UpstreamLocal => info.upstream.local.as_ref(),
    }
}

pub(crate) fn port(whose: Whose, info: &StreamInfo) -> Option<u64> {
    address(whose, info)?.port().map(u64::from)
}

fn write_address(address: Option<&Address>, part: Part, out: &mut String) -> bool {
    let Some(address) = address else { return false };
    let written = match (part, address) {
        (Part::Port, _) => return push_number(out, address.port().map(u64::from)),
        (Part::Whole, address) => write!(out, "{address}"),
        (_, Address::Pipe(path)) => write!(out, "{path}"),
        (Part::Ip, Address::Ip(address)) => write!(out, "{}", address.ip()),
        (Part::Masked(bits), Address::Ip(address)) => match address.ip() {
            std::net::IpAddr::V4(ip) => {
                let bits = u32::from(bits).min(32);
                let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                write!(out, "{}/{bits}", std::net::Ipv4Addr::from_bits(ip.to_bits() & mask))
            }
            std::net::IpAddr::V6(ip) => {
                let bits = u32::from(bits).min(128);
                let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                write!(out, "{}/{bits}", std::net::Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
        },
    };
    written.is_ok()
}

// === certificates ===

fn write_certificate(tls: Option<&TlsInfo>, part: Certificate, out: &mut String) -> bool {
    let peer = tls.and_then(|tls| tls.peer.as_deref());
    let local = tls.and_then(|tls| tls.local.as_deref());
    match part {
        Certificate::UriSan => push_list(out, peer, |c| &c.uri_sans),
        Certificate::DnsSan => push_list(out, peer, |c| &c.dns_sans),
        Certificate::IpSan => push_list(out, peer, |c| &c.ip_sans),
        Certificate::EmailSan => push_list(out, peer, |c| &c.email_sans),
        Certificate::LocalUriSan => push_list(out, local, |c| &c.uri_sans),
        Certificate::LocalDnsSan => push_list(out, local, |c| &c.dns_sans),
        Certificate::LocalIpSan => push_list(out, local, |c| &c.ip_sans),
        Certificate::LocalEmailSan => push_list(out, local, |c| &c.email_sans),
        Certificate::Subject => push(out, peer.and_then(|c| some(&c.subject))),
        Certificate::LocalSubject => push(out, local.and_then(|c| some(&c.subject))),
        Certificate::Issuer => push(out, peer.and_then(|c| some(&c.issuer))),
        Certificate::Serial => push(out, peer.and_then(|c| some(&c.serial))),
        Certificate::Fingerprint256 => push(out, peer.and_then(|c| some(&c.fingerprint_256))),
        Certificate::Fingerprint1 => push(out, peer.and_then(|c| some(&c.fingerprint_1))),
        Certificate::Pem => push(out, peer.and_then(|c| some(&c.pem_url_encoded))),
    }
}

fn push_list(
    out: &mut String,
    certificate: Option<&PeerCertificate>,
    list: impl FnOnce(&PeerCertificate) -> &Vec<String>,
) -> bool {
    let Some(list) = certificate.map(list).filter(|list| !list.is_empty()) else { return false };
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(item);
    }
    true
}

// === the rest ===

const GRPC_CODES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// The status of the stream; of the messages when it is not known otherwise.
fn grpc_status(inputs: &Inputs<'_>) -> Option<u8> {
    let read = |headers: Option<&Headers>| headers?.text(&name::GRPC_STATUS)?.parse().ok();
    inputs
        .info
        .grpc_status
        .or_else(|| read(inputs.trailers))
        .or_else(|| read(inputs.response.map(|head| &head.headers)))
}

fn write_grpc_status(form: GrpcForm, inputs: &Inputs<'_>, out: &mut String) -> bool {
    let Some(code) = grpc_status(inputs) else { return false };
    match (form, GRPC_CODES.get(usize::from(code))) {
        (GrpcForm::Camel, Some((camel, _))) => push(out, Some(camel)),
        (GrpcForm::Snake, Some((_, snake))) => push(out, Some(snake)),
        _ => push_number(out, Some(code.into())),
    }
}

pub(crate) fn metadata<'a>(
    source: MetadataSource,
    info: &'a StreamInfo,
    filter: &str,
    path: &str,
) -> Option<&'a String> {
    let of = |metadata: &'a Metadata| metadata.get(filter)?.get(path);
    match source {
        MetadataSource::Dynamic => info.metadata.as_deref().and_then(of),
        MetadataSource::Route => info.route_metadata.as_deref().and_then(of),
        MetadataSource::Cluster => info.cluster_metadata.as_deref().and_then(of),
        MetadataSource::Host => info.host_metadata.as_deref().and_then(of),
    }
}

fn path<'a>(inputs: &Inputs<'a>, query: bool, which: WhichPath) -> Option<&'a str> {
    let head = inputs.request?;
    let original = || head.headers.text(&name::X_ENVOY_ORIGINAL_PATH).or(inputs.info.original_path.as_deref());
    let path = match which {
        WhichPath::Current => head.path(),
        WhichPath::Original => original()?,
        WhichPath::OriginalOrCurrent => original().unwrap_or(head.path()),
    };
    let path = if query { path } else { path.split(['?', '#']).next().unwrap_or_default() };
    some(path)
}
