//! The small types that many resources share: addresses, data and configuration sources, percentages, durations.
//!
//! Nothing here opens a file or a socket: a `DataSource` names its bytes, whoever compiles the snapshot reads them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use proto::envoy::config::core::v3 as pb;
use proto::envoy::r#type::v3 as pb_type;

use crate::invalid::Problems;
use crate::refuse_set;

mod source;

pub use source::{ApiSource, ConfigSource, GrpcService, RateLimit, Source, TransportKind};
pub use source::{api_source, config_source, grpc_service};

/// Where a listener listens or an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port; port 0 lets the system choose.
    Ip(SocketAddr),
    /// A host name to resolve, and a port.
    Name { host: String, port: u16 },
    /// A Unix socket. A path that begins with `@` is in the abstract namespace; `mode` is for a socket we create.
    Pipe { path: String, mode: u32 },
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Pipe { path, .. } => f.write_str(path),
        }
    }
}

/// Bytes that are in the configuration or somewhere else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DataSource {
    /// The bytes themselves.
    Inline(Bytes),
    /// The content of a file; read again when something is moved into `watched_directory`.
    File { path: PathBuf, watched_directory: Option<PathBuf> },
    /// The value of an environment variable.
    Environment(String),
}

/// A share of a whole, exact: `numerator / denominator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fraction {
    /// How many of `denominator`; more than that is the whole.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    /// All of it.
    pub const ALL: Self = Self { numerator: 100, denominator: 100 };
    /// None of it.
    pub const NONE: Self = Self { numerator: 0, denominator: 100 };

    /// Whether the stream with this random value is among the share.
    pub fn admits(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

/// A fraction that the runtime key overrides when it is set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuntimeFraction {
    /// What holds when the key is not set.
    pub default: Fraction,
    /// The runtime key; empty for none.
    pub key: String,
}

impl RuntimeFraction {
    /// What holds in this process.
    pub fn value(&self) -> Fraction {
        crate::runtime::process().fraction(self)
    }
}

impl From<Fraction> for RuntimeFraction {
    fn from(default: Fraction) -> Self {
        Self { default, key: String::new() }
    }
}

impl From<bool> for RuntimeFlag {
    fn from(default: bool) -> Self {
        Self { default, key: String::new() }
    }
}

impl RuntimeFlag {
    /// What holds in this process.
    pub fn value(&self) -> bool {
        crate::runtime::process().flag(self)
    }
}

impl RuntimeNumber {
    /// What holds in this process.
    pub fn value(&self) -> u64 {
        crate::runtime::process().number(self)
    }
}

/// A flag that the runtime key overrides when it is set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuntimeFlag {
    /// What holds when the key is not set.
    pub default: bool,
    /// The runtime key; empty for none.
    pub key: String,
}

/// A number that the runtime key overrides when it is set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuntimeNumber {
    /// What holds when the key is not set.
    pub default: u32,
    /// The runtime key; empty for none.
    pub key: String,
}

/// Probing of idle TCP connections; what is not set is the system's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// Free-form data attached to a resource, by namespace. The typed part is kept as JSON too.
pub type Metadata = std::collections::BTreeMap<String, serde_json::Value>;

/// Static metadata as formatters look it up: filter name → dotted path → text, or JSON text of what is not text. The
/// empty path is the whole object.
pub fn flatten_metadata(metadata: &Metadata) -> BTreeMap<String, BTreeMap<String, String>> {
    let flat = |(name, value): (&String, &serde_json::Value)| {
        let mut into = BTreeMap::new();
        flatten(String::new(), value, &mut into);
        (name.clone(), into)
    };
    metadata.iter().map(flat).collect()
}

fn flatten(path: String, value: &serde_json::Value, into: &mut BTreeMap<String, String>) {
    if let serde_json::Value::Object(fields) = value {
        for (name, value) in fields {
            let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            flatten(below, value, into);
        }
    }
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    into.insert(path, text);
}

// === decode ===

/// Decodes `address`, which must be set.
pub fn address(proto: Option<&pb::Address>, p: &mut Problems) -> Option<Address> {
    let Some(kind) = proto.and_then(|a| a.address.as_ref()) else {
        p.refuse("an address is required");
        return None;
    };
    match kind {
        pb::address::Address::SocketAddress(socket) => p.at("socket_address", |p| socket_address(socket, p)),
        pb::address::Address::Pipe(pipe) => p.at("pipe", |p| {
            if pipe.path.is_empty() {
                return p.refuse_at("path", "must not be empty");
            }
            if pipe.mode > 0o777 {
                return p.refuse_at("mode", format!("{:o} is not a file mode (at most 777 octal)", pipe.mode));
            }
            Some(Address::Pipe { path: pipe.path.clone(), mode: pipe.mode })
        }),
        pb::address::Address::EnvoyInternalAddress(_) => {
            p.unimplemented("envoy_internal_address");
            None
        }
    }
}

/// Whether it is an address of datagrams.
pub(crate) fn is_udp(proto: Option<&pb::Address>) -> bool {
    let udp = pb::socket_address::Protocol::Udp as i32;
    matches!(
        proto.and_then(|address| address.address.as_ref()),
        Some(pb::address::Address::SocketAddress(socket)) if socket.protocol == udp
    )
}

/// Decodes an address; an IP address, or a name where the user of the address resolves it. Whether it is of TCP or UDP
/// is said by who uses it: listeners look, and to an endpoint goes what its listener has.
pub fn socket_address(proto: &pb::SocketAddress, p: &mut Problems) -> Option<Address> {
    use pb::socket_address::PortSpecifier;
    let before = p.count();
    refuse_set!(p, proto; resolver_name, network_namespace_filepath);
    let port = match proto.port_specifier {
        Some(PortSpecifier::PortValue(port)) => match u16::try_from(port) {
            Ok(port) => port,
            Err(_) => return p.refuse_at("port_value", format!("{port} is not a port (0 to 65535)")),
        },
        Some(PortSpecifier::NamedPort(_)) => {
            p.unimplemented("named_port");
            return None;
        }
        None => return p.refuse_at("port_value", "a port is required"),
    };
    if proto.address.is_empty() {
        return p.refuse_at("address", "must not be empty");
    }
    if p.count() > before {
        return None;
    }
    let Ok(ip) = proto.address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else {
        return Some(Address::Name { host: proto.address.clone(), port });
    };
    // `ipv4_compat` lets an IPv6 wildcard take IPv4 connections, which our listeners always do.
    Some(Address::Ip(SocketAddr::new(ip, port)))
}

/// Decodes an address that must be an IP address.
pub fn ip_address(proto: &pb::SocketAddress, p: &mut Problems) -> Option<SocketAddr> {
    match socket_address(proto, p)? {
        Address::Ip(address) => Some(address),
        _ => p.refuse_at("address", format!("{:?} is not an IP address", proto.address)),
    }
}

/// Decodes an address range; bits after the prefix are dropped, as Envoy drops them.
pub fn cidr(proto: &pb::CidrRange, p: &mut Problems) -> Option<IpNet> {
    let Ok(ip) = proto.address_prefix.parse::<IpAddr>() else {
        return p.refuse_at("address_prefix", format!("{:?} is not an IP address", proto.address_prefix));
    };
    let length = proto.prefix_len.unwrap_or(0);
    match u8::try_from(length).ok().and_then(|length| IpNet::new(ip, length).ok()) {
        Some(net) => Some(net.trunc()),
        None => p.refuse_at("prefix_len", format!("{length} is too long for {ip}")),
    }
}

/// Decodes a source of bytes, which must name one.
pub fn data_source(proto: &pb::DataSource, p: &mut Problems) -> Option<DataSource> {
    use pb::data_source::Specifier;
    let watched_directory = match &proto.watched_directory {
        Some(watched) => Some(p.at("watched_directory", |p| watched_path(watched, p))?),
        None => None,
    };
    match &proto.specifier {
        Some(Specifier::Filename(path)) if path.is_empty() => p.refuse_at("filename", "must not be empty"),
        Some(Specifier::Filename(path)) => Some(DataSource::File { path: path.into(), watched_directory }),
        _ if watched_directory.is_some() => p.refuse_at("watched_directory", "only a file can be watched"),
        Some(Specifier::InlineBytes(bytes)) => Some(DataSource::Inline(bytes.clone())),
        Some(Specifier::InlineString(text)) => Some(DataSource::Inline(Bytes::copy_from_slice(text.as_bytes()))),
        Some(Specifier::EnvironmentVariable(name)) if name.is_empty() => {
            p.refuse_at("environment_variable", "must not be empty")
        }
        Some(Specifier::EnvironmentVariable(name)) => Some(DataSource::Environment(name.clone())),
        None => {
            p.refuse("one of filename, inline_bytes, inline_string and environment_variable is required");
            None
        }
    }
}

/// Decodes a directory whose move-ins mean that files have changed.
pub fn watched_path(proto: &pb::WatchedDirectory, p: &mut Problems) -> Option<PathBuf> {
    p.unimplemented_if("watch_modify", proto.watch_modify);
    if proto.path.is_empty() {
        return p.refuse_at("path", "must not be empty");
    }
    Some(proto.path.clone().into())
}

/// Hex digits of either case, two for each byte.
pub(crate) fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// The longest that a `Duration` may be, some 10,000 years: adding it to the time of day must not overflow.
const MAX_SECONDS: u64 = 315_576_000_000;

/// Decodes a duration that is not negative.
pub fn duration(proto: &prost_types::Duration, p: &mut Problems) -> Option<Duration> {
    if proto.seconds < 0 || proto.nanos < 0 {
        p.refuse("must not be negative");
        return None;
    }
    let (seconds, nanos) = (proto.seconds.unsigned_abs(), proto.nanos.unsigned_abs());
    if seconds > MAX_SECONDS || nanos >= 1_000_000_000 {
        p.refuse(format!("is no duration: at most {MAX_SECONDS} seconds, and less than 1000000000 nanoseconds"));
        return None;
    }
    Some(Duration::new(seconds, nanos))
}

/// Decodes the duration in the field `name`, if it is set.
pub fn duration_at(proto: Option<&prost_types::Duration>, name: &str, p: &mut Problems) -> Option<Duration> {
    p.at(name, |p| duration(proto?, p))
}

/// Decodes the duration in the field `name`: `default` when it is not set, `None` when it is 0, which disables it.
pub fn timeout_at(
    proto: Option<&prost_types::Duration>,
    name: &str,
    default: Option<Duration>,
    p: &mut Problems,
) -> Option<Duration> {
    match proto {
        None => default,
        Some(_) => duration_at(proto, name, p).filter(|d| !d.is_zero()),
    }
}

/// Decodes a fraction.
pub fn fraction(proto: &pb_type::FractionalPercent, p: &mut Problems) -> Option<Fraction> {
    use pb_type::fractional_percent::DenominatorType;
    let denominator = match DenominatorType::try_from(proto.denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => return p.refuse_at("denominator", format!("unknown value {}", proto.denominator)),
    };
    Some(Fraction { numerator: proto.numerator, denominator })
}

/// Decodes a fraction with a runtime key; no default value is 0.
pub fn runtime_fraction(proto: &pb::RuntimeFractionalPercent, p: &mut Problems) -> Option<RuntimeFraction> {
    let default = match &proto.default_value {
        Some(value) => p.at("default_value", |p| fraction(value, p))?,
        None => Fraction::NONE,
    };
    Some(RuntimeFraction { default, key: proto.runtime_key.clone() })
}

/// Decodes a flag with a runtime key.
pub fn runtime_flag(proto: &pb::RuntimeFeatureFlag, p: &mut Problems) -> Option<RuntimeFlag> {
    match proto.default_value {
        Some(default) => Some(RuntimeFlag { default, key: proto.runtime_key.clone() }),
        None => p.refuse_at("default_value", "is required"),
    }
}

/// Decodes a percentage from 0 to 100.
pub fn percent(proto: &pb_type::Percent, p: &mut Problems) -> Option<f64> {
    if (0.0..=100.0).contains(&proto.value) {
        return Some(proto.value);
    }
    p.refuse_at("value", format!("{} is not a percentage (0 to 100)", proto.value))
}

/// Decodes keep-alive settings.
pub fn tcp_keepalive(proto: &pb::TcpKeepalive) -> TcpKeepalive {
    let seconds = |n: u32| Duration::from_secs(n.into());
    TcpKeepalive {
        probes: proto.keepalive_probes,
        time: proto.keepalive_time.map(seconds),
        interval: proto.keepalive_interval.map(seconds),
    }
}

/// Decodes metadata; a typed entry that is not in the descriptor set is kept as base64.
pub fn metadata(proto: Option<&pb::Metadata>) -> Metadata {
    let Some(proto) = proto else { return Metadata::new() };
    let mut metadata = Metadata::new();
    for (namespace, any) in &proto.typed_filter_metadata {
        let value = proto::json::to_value(any, proto::json::Secrets::Shown)
            .unwrap_or_else(|_| serde_json::json!({ "@type": any.type_url }));
        metadata.insert(namespace.clone(), value);
    }
    for (namespace, fields) in &proto.filter_metadata {
        metadata.insert(namespace.clone(), proto::json::struct_to_value(fields));
    }
    metadata
}

/// The typed configuration of the extension that `any` is, with a `TypedStruct` unwrapped.
pub fn extension(any: &proto::Any, p: &mut Problems) -> Option<proto::Any> {
    match proto::json::unwrap_typed_struct(any) {
        Ok(any) => Some(any.into_owned()),
        Err(error) => {
            for problem in error.problems() {
                p.refuse(problem);
            }
            None
        }
    }
}

/// Decodes the message `M` in `any`.
pub fn unpack<M: prost::Name + Default>(any: &proto::Any, p: &mut Problems) -> Option<M> {
    match M::decode(any.value.clone()) {
        Ok(message) => Some(message),
        Err(error) => {
            p.refuse(format!("not a {}: {error}", M::NAME));
            None
        }
    }
}

#[cfg(test)]
mod tests;
