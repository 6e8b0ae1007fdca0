//! The operators: their names, their arguments, and what they stand for.

use dp_http::Field;

use crate::duration::Span;
use crate::time::TimeFormat;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operator {
    /// Known when the format is parsed.
    Constant(String),
    Request {
        main: Field,
        alternative: Option<Field>,
    },
    Response {
        main: Field,
        alternative: Option<Field>,
    },
    Trailer {
        main: Field,
        alternative: Option<Field>,
    },
    Time {
        which: Time,
        format: TimeFormat,
    },
    Duration(Span),
    Number(Number),
    Text(Text),
    Address {
        whose: Whose,
        part: Part,
    },
    Certificate {
        side: Side,
        part: Certificate,
    },
    ResponseCodeDetails {
        keep_whitespace: bool,
    },
    GrpcStatus(GrpcForm),
    Metadata {
        source: MetadataSource,
        filter: String,
        path: String,
    },
    /// As JSON text when it is `typed`.
    FilterState {
        key: String,
        typed: bool,
    },
    Path {
        query: bool,
        which: WhichPath,
    },
    QueryParameter(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    Start,
    Emit,
    NotBefore(Side),
    NotAfter(Side),
}

/// Operators that are numbers in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    ResponseCode,
    BytesReceived,
    BytesSent,
    UpstreamWireSent,
    UpstreamWireReceived,
    RequestHeaderBytes,
    ResponseHeaderBytes,
    ResponseTrailerBytes,
    Attempts,
    ConnectionId,
    UpstreamConnectionId,
    GrpcStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    Protocol,
    UpstreamProtocol,
    ResponseFlags,
    ResponseFlagsLong,
    TerminationDetails,
    UpstreamCluster,
    UpstreamHostName,
    UpstreamHostNameWithoutPort,
    UpstreamFailure,
    UpstreamServerName,
    RequestedServerName,
    RouteName,
    VirtualHostName,
    StreamId,
    LocalReplyBody,
    FilterChainName,
    TlsVersion(Side),
    TlsCipher(Side),
    AccessLogType,
    /// Never has a value here, as in an Envoy where the feature is not used.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Downstream,
    Upstream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Client,
    Direct,
    Local,
    UpstreamHost,
    UpstreamLocal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Ip,
    /// The network of this prefix length.
    Masked(u8),
    Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certificate {
    UriSan,
    DnsSan,
    IpSan,
    EmailSan,
    Subject,
    Issuer,
    Serial,
    Fingerprint256,
    Fingerprint1,
    Pem,
    LocalUriSan,
    LocalDnsSan,
    LocalIpSan,
    LocalEmailSan,
    LocalSubject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GrpcForm {
    Camel,
    Snake,
    Number,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetadataSource {
    Dynamic,
    Route,
    Cluster,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhichPath {
    Current,
    Original,
    OriginalOrCurrent,
}

pub(crate) enum Problem {
    Unknown(Option<&'static str>),
    Unimplemented,
    Argument(String),
}

impl Operator {
    /// Whether `:LENGTH` may follow.
    pub(crate) fn takes_length(&self) -> bool {
        matches!(
            self,
            Self::Constant(_)
                | Self::Request { .. }
                | Self::Response { .. }
                | Self::Trailer { .. }
                | Self::Metadata { .. }
                | Self::FilterState { .. }
                | Self::Path { .. }
                | Self::QueryParameter(_)
        )
    }
}

/// The operator `NAME(argument)`.
pub(crate) fn parse(name: &str, argument: Option<&str>) -> Result<Operator, Problem> {
    if let Some(operator) = parse_with_argument(name, argument) {
        return operator;
    }
    if let Some((_, operator)) = PLAIN.iter().find(|(known, _)| *known == name) {
        return match argument {
            None | Some("") => Ok(operator.clone()),
            Some(_) => Err(Problem::Argument("takes no argument".into())),
        };
    }
    if UNIMPLEMENTED.contains(&name) {
        return Err(Problem::Unimplemented);
    }
    Err(Problem::Unknown(closest(name)))
}

fn closest(name: &str) -> Option<&'static str> {
    let names = PLAIN.iter().map(|(name, _)| *name).chain(WITH_ARGUMENT.iter().copied());
    let names = names.filter(|known| known.len().abs_diff(name.len()) <= 3);
    names.map(|known| (strsim::damerau_levenshtein(name, known), known)).min().filter(|(d, _)| *d <= 3).map(|(_, n)| n)
}

const WITH_ARGUMENT: &[&str] = &[
    "REQ",
    "RESP",
    "TRAILER",
    "START_TIME",
    "EMIT_TIME",
    "COMMON_DURATION",
    "RESPONSE_CODE_DETAILS",
    "GRPC_STATUS",
    "METADATA",
    "DYNAMIC_METADATA",
    "CLUSTER_METADATA",
    "UPSTREAM_METADATA",
    "FILTER_STATE",
    "PATH",
    "QUERY_PARAM",
    "ENVIRONMENT",
    "REQUESTED_SERVER_NAME",
];

/// Operators that Envoy has and we have nothing to answer with.
const UNIMPLEMENTED: &[&str] = &[
    "START_TIME_LOCAL",
    "EMIT_TIME_LOCAL",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "UPSTREAM_LOCAL_CLOSE_REASON",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_SESSION_ID",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRACE_ID",
    "SPAN_ID",
    "UNIQUE_ID",
    "CUSTOM_FLAGS",
    "REQUEST_BODY",
    "QUERY_PARAMS",
    "CEL",
    "TYPED_CEL",
    "REQ_WITHOUT_QUERY",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "ROUNDTRIP_DURATION",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "UPSTREAM_FILTER_STATE",
    "BYTES_RETRANSMITTED",
    "PACKETS_RETRANSMITTED",
    "COALESCE",
    "SPIFFE_ID",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_CERT_CHAIN",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAMES_ATTEMPTED",
    "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID",
];

macro_rules! plain {
    ($($name:literal => $operator:expr,)+) => {
        static PLAIN: &[(&str, Operator)] = &[$(($name, $operator)),+];
    };
}

use Operator::{Address, Certificate as Cert, Duration};
use Side::{Downstream, Upstream};

plain! {
    "PROTOCOL" => Operator::Text(Text::Protocol),
    "UPSTREAM_PROTOCOL" => Operator::Text(Text::UpstreamProtocol),
    "RESPONSE_CODE" => Operator::Number(Number::ResponseCode),
    "RESPONSE_FLAGS" => Operator::Text(Text::ResponseFlags),
    "RESPONSE_FLAGS_LONG" => Operator::Text(Text::ResponseFlagsLong),
    "CONNECTION_TERMINATION_DETAILS" => Operator::Text(Text::TerminationDetails),
    "BYTES_RECEIVED" => Operator::Number(Number::BytesReceived),
    "BYTES_SENT" => Operator::Number(Number::BytesSent),
    "UPSTREAM_WIRE_BYTES_SENT" => Operator::Number(Number::UpstreamWireSent),
    "UPSTREAM_WIRE_BYTES_RECEIVED" => Operator::Number(Number::UpstreamWireReceived),
    "REQUEST_HEADERS_BYTES" => Operator::Number(Number::RequestHeaderBytes),
    "RESPONSE_HEADERS_BYTES" => Operator::Number(Number::ResponseHeaderBytes),
    "RESPONSE_TRAILERS_BYTES" => Operator::Number(Number::ResponseTrailerBytes),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::Number(Number::Attempts),
    "CONNECTION_ID" => Operator::Number(Number::ConnectionId),
    "UPSTREAM_CONNECTION_ID" => Operator::Number(Number::UpstreamConnectionId),
    "GRPC_STATUS_NUMBER" => Operator::Number(Number::GrpcStatus),
    "DURATION" => Duration(Span::TOTAL),
    "REQUEST_DURATION" => Duration(Span::REQUEST),
    "REQUEST_TX_DURATION" => Duration(Span::REQUEST_SENT),
    "RESPONSE_DURATION" => Duration(Span::RESPONSE),
    "RESPONSE_TX_DURATION" => Duration(Span::RESPONSE_SENT),
    "UPSTREAM_CLUSTER" => Operator::Text(Text::UpstreamCluster),
    "UPSTREAM_CLUSTER_RAW" => Operator::Text(Text::UpstreamCluster),
    "UPSTREAM_HOST_NAME" => Operator::Text(Text::UpstreamHostName),
    "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Operator::Text(Text::UpstreamHostNameWithoutPort),
    "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::Text(Text::UpstreamFailure),
    "UPSTREAM_SERVER_NAME" => Operator::Text(Text::UpstreamServerName),
    "UPSTREAM_HOST" => Address { whose: Whose::UpstreamHost, part: Part::Whole },
    "ROUTE_NAME" => Operator::Text(Text::RouteName),
    "VIRTUAL_HOST_NAME" => Operator::Text(Text::VirtualHostName),
    "VIRTUAL_CLUSTER_NAME" => Operator::Text(Text::Nothing),
    "STREAM_ID" => Operator::Text(Text::StreamId),
    "LOCAL_REPLY_BODY" => Operator::Text(Text::LocalReplyBody),
    "FILTER_CHAIN_NAME" => Operator::Text(Text::FilterChainName),
    "DOWNSTREAM_TLS_VERSION" => Operator::Text(Text::TlsVersion(Downstream)),
    "DOWNSTREAM_TLS_CIPHER" => Operator::Text(Text::TlsCipher(Downstream)),
    "UPSTREAM_TLS_VERSION" => Operator::Text(Text::TlsVersion(Upstream)),
    "UPSTREAM_TLS_CIPHER" => Operator::Text(Text::TlsCipher(Upstream)),
    "DOWNSTREAM_PEER_URI_SAN" => Cert { side: Downstream, part: Certificate::UriSan },
    "DOWNSTREAM_PEER_DNS_SAN" => Cert { side: Downstream, part: Certificate::DnsSan },
    "DOWNSTREAM_PEER_IP_SAN" => Cert { side: Downstream, part: Certificate::IpSan },
    "DOWNSTREAM_PEER_EMAIL_SAN" => Cert { side: Downstream, part: Certificate::EmailSan },
    "DOWNSTREAM_PEER_SUBJECT" => Cert { side: Downstream, part: Certificate::Subject },
    "DOWNSTREAM_PEER_ISSUER" => Cert { side: Downstream, part: Certificate::Issuer },
    "DOWNSTREAM_PEER_SERIAL" => Cert { side: Downstream, part: Certificate::Serial },
    "DOWNSTREAM_PEER_FINGERPRINT_256" => Cert { side: Downstream, part: Certificate::Fingerprint256 },
    "DOWNSTREAM_PEER_FINGERPRINT_1" => Cert { side: Downstream, part: Certificate::Fingerprint1 },
    "DOWNSTREAM_PEER_CERT" => Cert { side: Downstream, part: Certificate::Pem },
    "DOWNSTREAM_LOCAL_URI_SAN" => Cert { side: Downstream, part: Certificate::LocalUriSan },
    "DOWNSTREAM_LOCAL_DNS_SAN" => Cert { side: Downstream, part: Certificate::LocalDnsSan },
    "DOWNSTREAM_LOCAL_IP_SAN" => Cert { side: Downstream, part: Certificate::LocalIpSan },
    "DOWNSTREAM_LOCAL_EMAIL_SAN" => Cert { side: Downstream, part: Certificate::LocalEmailSan },
    "DOWNSTREAM_LOCAL_SUBJECT" => Cert { side: Downstream, part: Certificate::LocalSubject },
    "UPSTREAM_PEER_URI_SAN" => Cert { side: Upstream, part: Certificate::UriSan },
    "UPSTREAM_PEER_DNS_SAN" => Cert { side: Upstream, part: Certificate::DnsSan },
    "UPSTREAM_PEER_IP_SAN" => Cert { side: Upstream, part: Certificate::IpSan },
    "UPSTREAM_PEER_EMAIL_SAN" => Cert { side: Upstream, part: Certificate::EmailSan },
    "UPSTREAM_PEER_SUBJECT" => Cert { side: Upstream, part: Certificate::Subject },
    "UPSTREAM_PEER_ISSUER" => Cert { side: Upstream, part: Certificate::Issuer },
    "UPSTREAM_PEER_CERT" => Cert { side: Upstream, part: Certificate::Pem },
    "UPSTREAM_LOCAL_URI_SAN" => Cert { side: Upstream, part: Certificate::LocalUriSan },
    "UPSTREAM_LOCAL_DNS_SAN" => Cert { side: Upstream, part: Certificate::LocalDnsSan },
    "UPSTREAM_LOCAL_IP_SAN" => Cert { side: Upstream, part: Certificate::LocalIpSan },
    "UPSTREAM_LOCAL_SUBJECT" => Cert { side: Upstream, part: Certificate::LocalSubject },
}

/// The operators that take an argument, or are a family of names; `None` for every other name.
fn parse_with_argument(name: &str, argument: Option<&str>) -> Option<Result<Operator, Problem>> {
    let given = argument.unwrap_or_default();
    Some(match name {
        "REQ" => parse_fields(given).map(|(main, alternative)| Operator::Request { main, alternative }),
        "RESP" => parse_fields(given).map(|(main, alternative)| Operator::Response { main, alternative }),
        "TRAILER" => parse_fields(given).map(|(main, alternative)| Operator::Trailer { main, alternative }),
        "START_TIME" => parse_time(Time::Start, given),
        "EMIT_TIME" => parse_time(Time::Emit, given),
        "DOWNSTREAM_PEER_CERT_V_START" => parse_time(Time::NotBefore(Downstream), given),
        "DOWNSTREAM_PEER_CERT_V_END" => parse_time(Time::NotAfter(Downstream), given),
        "UPSTREAM_PEER_CERT_V_START" => parse_time(Time::NotBefore(Upstream), given),
        "UPSTREAM_PEER_CERT_V_END" => parse_time(Time::NotAfter(Upstream), given),
        "COMMON_DURATION" => Span::parse(given).map(Duration).map_err(Problem::Argument),
        "RESPONSE_CODE_DETAILS" => match given {
            "" => Ok(Operator::ResponseCodeDetails { keep_whitespace: false }),
            "ALLOW_WHITESPACES" => Ok(Operator::ResponseCodeDetails { keep_whitespace: true }),
            other => Err(Problem::Argument(format!("{other:?} is not ALLOW_WHITESPACES"))),
        },
        "GRPC_STATUS" => match given {
            "" | "CAMEL_STRING" => Ok(Operator::GrpcStatus(GrpcForm::Camel)),
            "SNAKE_STRING" => Ok(Operator::GrpcStatus(GrpcForm::Snake)),
            "NUMBER" => Ok(Operator::GrpcStatus(GrpcForm::Number)),
            other => Err(Problem::Argument(format!("{other:?} is not CAMEL_STRING, SNAKE_STRING or NUMBER"))),
        },
        "METADATA" => match given.split_once(':').unwrap_or((given, "")) {
            ("DYNAMIC", rest) => parse_metadata(MetadataSource::Dynamic, rest),
            ("ROUTE", rest) => parse_metadata(MetadataSource::Route, rest),
            ("CLUSTER", rest) => parse_metadata(MetadataSource::Cluster, rest),
            ("UPSTREAM_HOST", rest) => parse_metadata(MetadataSource::Host, rest),
            (other, _) => Err(Problem::Argument(format!("{other:?} is not DYNAMIC, ROUTE, CLUSTER or UPSTREAM_HOST"))),
        },
        "DYNAMIC_METADATA" => parse_metadata(MetadataSource::Dynamic, given),
        "CLUSTER_METADATA" => parse_metadata(MetadataSource::Cluster, given),
        "UPSTREAM_METADATA" => parse_metadata(MetadataSource::Host, given),
        "FILTER_STATE" => parse_filter_state(given),
        "PATH" => parse_path(given),
        "QUERY_PARAM" if given.is_empty() => Err(Problem::Argument("needs the name of a parameter".into())),
        "QUERY_PARAM" => Ok(Operator::QueryParameter(given.to_owned())),
        "HOSTNAME" if argument.is_some() => Err(Problem::Argument("takes no argument".into())),
        "HOSTNAME" => Ok(Operator::Constant(host_name())),
        "ACCESS_LOG_TYPE" if argument.is_some() => Err(Problem::Argument("takes no argument".into())),
        "ACCESS_LOG_TYPE" => Ok(Operator::Text(Text::AccessLogType)),
        "ENVIRONMENT" if given.is_empty() => Err(Problem::Argument("needs the name of a variable".into())),
        "ENVIRONMENT" => Ok(Operator::Constant(std::env::var(given).unwrap_or_else(|_| "-".into()))),
        "REQUESTED_SERVER_NAME" => match given {
            "" | "SNI_ONLY" => Ok(Operator::Text(Text::RequestedServerName)),
            other => Err(Problem::Argument(format!("{other:?} is not implemented by weir-proxy; SNI_ONLY is"))),
        },
        _ => return parse_address(name, argument),
    })
}

fn parse_fields(argument: &str) -> Result<(Field, Option<Field>), Problem> {
    let field = |name: &str| Field::new(name).map_err(|_| Problem::Argument(format!("{name:?} is not a header name")));
    match argument.split_once('?') {
        None => Ok((field(argument)?, None)),
        Some((main, alternative)) => Ok((field(main)?, Some(field(alternative)?))),
    }
}

fn parse_time(which: Time, format: &str) -> Result<Operator, Problem> {
    let format = TimeFormat::parse(format).map_err(Problem::Argument)?;
    Ok(Operator::Time { which, format })
}

fn parse_metadata(source: MetadataSource, argument: &str) -> Result<Operator, Problem> {
    let (filter, path) = argument.split_once(':').unwrap_or((argument, ""));
    if filter.is_empty() {
        return Err(Problem::Argument("needs NAMESPACE or NAMESPACE:KEY".into()));
    }
    Ok(Operator::Metadata { source, filter: filter.to_owned(), path: path.replace(':', ".") })
}

fn parse_filter_state(argument: &str) -> Result<Operator, Problem> {
    match argument.split_once(':').unwrap_or((argument, "TYPED")) {
        ("", _) => Err(Problem::Argument("needs a key".into())),
        (key, form @ ("PLAIN" | "TYPED")) => Ok(Operator::FilterState { key: key.to_owned(), typed: form == "TYPED" }),
        (_, form) => Err(Problem::Argument(format!("{form:?} is not implemented by weir-proxy; PLAIN and TYPED are"))),
    }
}

fn parse_path(argument: &str) -> Result<Operator, Problem> {
    let (query, which) = argument.split_once(':').unwrap_or((argument, ""));
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        other => return Err(Problem::Argument(format!("{other:?} is not WQ or NQ"))),
    };
    let which = match which {
        "" | "ORIG_OR_PATH" => WhichPath::OriginalOrCurrent,
        "ORIG" => WhichPath::Original,
        "PATH" => WhichPath::Current,
        other => return Err(Problem::Argument(format!("{other:?} is not ORIG, PATH or ORIG_OR_PATH"))),
    };
    Ok(Operator::Path { query, which })
}

/// `DOWNSTREAM_REMOTE_ADDRESS`, `…_ADDRESS_WITHOUT_PORT`, `…_ADDRESS_WITHOUT_PORT(BITS)` and `…_PORT`.
fn parse_address(name: &str, argument: Option<&str>) -> Option<Result<Operator, Problem>> {
    const PREFIXES: &[(&str, Whose)] = &[
        ("DOWNSTREAM_REMOTE_", Whose::Client),
        ("DOWNSTREAM_DIRECT_REMOTE_", Whose::Direct),
        ("DOWNSTREAM_LOCAL_", Whose::Local),
        ("UPSTREAM_REMOTE_", Whose::UpstreamHost),
        ("UPSTREAM_LOCAL_", Whose::UpstreamLocal),
    ];
    let (rest, whose) = PREFIXES.iter().find_map(|(prefix, whose)| Some((name.strip_prefix(prefix)?, *whose)))?;
    let part = match (rest, argument) {
        ("ADDRESS", None | Some("")) => Part::Whole,
        ("ADDRESS_WITHOUT_PORT", None | Some("")) => Part::Ip,
        ("ADDRESS_WITHOUT_PORT", Some(bits)) => match bits.parse() {
            Ok(bits) if bits <= 128 => Part::Masked(bits),
            _ => return Some(Err(Problem::Argument(format!("{bits:?} is not a prefix length")))),
        },
        ("PORT", None | Some("")) => Part::Port,
        ("ADDRESS" | "PORT", Some(_)) => return Some(Err(Problem::Argument("takes no argument".into()))),
        _ => return None,
    };
    Some(Ok(Address { whose, part }))
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "-".into() } else { name.to_owned() }
}
