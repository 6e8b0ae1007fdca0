//! Which requests or connections get a line in an access log.

use proto::envoy::config::accesslog::v3 as pb;

use crate::core::{RuntimeFraction, RuntimeNumber, fraction};
use crate::invalid::Problems;
use crate::matcher::{HeaderMatcher, MetadataMatcher};

/// A condition; see the variants.
#[derive(Debug, Clone, PartialEq)]
pub enum AccessLogFilter {
    /// The response status, 0 when there was none.
    StatusCode(Comparison),
    /// The duration of the request in milliseconds.
    Duration(Comparison),
    /// Not a request that the health check filter answered.
    NotHealthCheck,
    /// A share of the requests; by request id unless `independent`, so that all logs choose the same requests.
    Runtime { fraction: RuntimeFraction, independent: bool },
    /// All of these.
    And(Vec<AccessLogFilter>),
    /// Any of these.
    Or(Vec<AccessLogFilter>),
    /// A request header.
    Header(Box<HeaderMatcher>),
    /// One of these response flags, by their short names; any flag at all when empty.
    ResponseFlag(Vec<String>),
    /// The gRPC status is one of these; none of these with `exclude`.
    GrpcStatus { codes: Vec<u32>, exclude: bool },
    /// Dynamic metadata; `if_missing` is the answer when the key is not there.
    Metadata { matcher: Option<Box<MetadataMatcher>>, if_missing: bool },
}

/// `actual OP value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The operator.
    pub op: CompareOp,
    /// What is compared with.
    pub value: RuntimeNumber,
}

/// How two numbers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    /// Equal.
    Equal,
    /// Greater or equal.
    GreaterOrEqual,
    /// Less or equal.
    LessOrEqual,
    /// Not equal.
    NotEqual,
}

impl Comparison {
    /// Whether `actual` fulfils the comparison with `value`, which is ours or what the runtime says.
    pub fn holds(&self, actual: u64, value: u64) -> bool {
        match self.op {
            CompareOp::Equal => actual == value,
            CompareOp::GreaterOrEqual => actual >= value,
            CompareOp::LessOrEqual => actual <= value,
            CompareOp::NotEqual => actual != value,
        }
    }
}

/// The short names of Envoy's response flags.
const FLAGS: &[&str] = &[
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH",
    "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

/// Filters inside filters, at most this deep.
const MAX_DEPTH: usize = 16;

// === decode ===

pub(crate) fn decode(proto: &pb::AccessLogFilter, p: &mut Problems) -> Option<AccessLogFilter> {
    decode_at(proto, 0, p)
}

fn decode_at(proto: &pb::AccessLogFilter, depth: usize, p: &mut Problems) -> Option<AccessLogFilter> {
    use pb::access_log_filter::FilterSpecifier as Kind;
    if depth > MAX_DEPTH {
        p.refuse(format!("nested deeper than {MAX_DEPTH} levels"));
        return None;
    }
    match &proto.filter_specifier {
        Some(Kind::StatusCodeFilter(filter)) => p.at("status_code_filter", |p| {
            Some(AccessLogFilter::StatusCode(comparison(filter.comparison.as_ref(), p)?))
        }),
        Some(Kind::DurationFilter(filter)) => {
            p.at("duration_filter", |p| Some(AccessLogFilter::Duration(comparison(filter.comparison.as_ref(), p)?)))
        }
        Some(Kind::NotHealthCheckFilter(_)) => Some(AccessLogFilter::NotHealthCheck),
        Some(Kind::RuntimeFilter(filter)) => p.at("runtime_filter", |p| runtime(filter, p)),
        Some(Kind::AndFilter(filter)) => {
            Some(AccessLogFilter::And(p.at("and_filter", |p| several(&filter.filters, depth, p))?))
        }
        Some(Kind::OrFilter(filter)) => {
            Some(AccessLogFilter::Or(p.at("or_filter", |p| several(&filter.filters, depth, p))?))
        }
        Some(Kind::HeaderFilter(filter)) => p.at("header_filter", |p| match &filter.header {
            Some(header) => {
                Some(AccessLogFilter::Header(Box::new(p.at("header", |p| HeaderMatcher::decode(header, p))?)))
            }
            None => p.refuse_at("header", "is required"),
        }),
        Some(Kind::ResponseFlagFilter(filter)) => p.at("response_flag_filter", |p| response_flags(filter, p)),
        Some(Kind::GrpcStatusFilter(filter)) => p.at("grpc_status_filter", |p| grpc_status(filter, p)),
        Some(Kind::MetadataFilter(filter)) => p.at("metadata_filter", |p| {
            let matcher = match &filter.matcher {
                Some(matcher) => Some(Box::new(p.at("matcher", |p| MetadataMatcher::decode(matcher, p))?)),
                None => None,
            };
            Some(AccessLogFilter::Metadata { matcher, if_missing: filter.match_if_key_not_found.unwrap_or(true) })
        }),
        Some(Kind::TraceableFilter(_)) => unimplemented("traceable_filter", p),
        Some(Kind::LogTypeFilter(_)) => unimplemented("log_type_filter", p),
        Some(Kind::ExtensionFilter(_)) => unimplemented("extension_filter", p),
        None => {
            p.refuse("a filter is required");
            None
        }
    }
}

fn unimplemented(name: &str, p: &mut Problems) -> Option<AccessLogFilter> {
    p.unimplemented(name);
    None
}

fn several(protos: &[pb::AccessLogFilter], depth: usize, p: &mut Problems) -> Option<Vec<AccessLogFilter>> {
    if protos.len() < 2 {
        return p.refuse_at("filters", "at least 2 are required");
    }
    let filters = p.each("filters", protos, |p, filter| decode_at(filter, depth + 1, p));
    (filters.len() == protos.len()).then_some(filters)
}

fn comparison(proto: Option<&pb::ComparisonFilter>, p: &mut Problems) -> Option<Comparison> {
    use pb::comparison_filter::Op;
    let Some(proto) = proto else { return p.refuse_at("comparison", "is required") };
    p.at("comparison", |p| {
        let op = match Op::try_from(proto.op) {
            Ok(Op::Eq) => CompareOp::Equal,
            Ok(Op::Ge) => CompareOp::GreaterOrEqual,
            Ok(Op::Le) => CompareOp::LessOrEqual,
            Ok(Op::Ne) => CompareOp::NotEqual,
            Err(_) => return p.refuse_at("op", format!("unknown value {}", proto.op)),
        };
        let Some(value) = &proto.value else { return p.refuse_at("value", "is required") };
        Some(Comparison { op, value: RuntimeNumber { default: value.default_value, key: value.runtime_key.clone() } })
    })
}

fn runtime(proto: &pb::RuntimeFilter, p: &mut Problems) -> Option<AccessLogFilter> {
    if proto.runtime_key.is_empty() {
        return p.refuse_at("runtime_key", "must not be empty");
    }
    let default = match &proto.percent_sampled {
        Some(sampled) => p.at("percent_sampled", |p| fraction(sampled, p))?,
        None => crate::core::Fraction::NONE,
    };
    Some(AccessLogFilter::Runtime {
        fraction: RuntimeFraction { default, key: proto.runtime_key.clone() },
        independent: proto.use_independent_randomness,
    })
}

fn response_flags(proto: &pb::ResponseFlagFilter, p: &mut Problems) -> Option<AccessLogFilter> {
    let flags = p.each("flags", &proto.flags, |p, flag| {
        if !FLAGS.contains(&flag.as_str()) {
            p.refuse(format!("{flag:?} is not a response flag"));
            return None;
        }
        Some(flag.clone())
    });
    (flags.len() == proto.flags.len()).then_some(AccessLogFilter::ResponseFlag(flags))
}

fn grpc_status(proto: &pb::GrpcStatusFilter, p: &mut Problems) -> Option<AccessLogFilter> {
    let codes = p.each("statuses", &proto.statuses, |p, code| match u32::try_from(*code) {
        Ok(code) if code <= 16 => Some(code),
        _ => {
            p.refuse(format!("unknown value {code}"));
            None
        }
    });
    (codes.len() == proto.statuses.len()).then_some(AccessLogFilter::GrpcStatus { codes, exclude: proto.exclude })
}
