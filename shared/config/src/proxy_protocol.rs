//! The PROXY protocol: what a listener takes of its header, and what a cluster sends in one.
//!
//! Only values. Who may send a header at all is said by the filter chains (`direct_source_prefix_ranges`).

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::envoy::config::core::v3 as pb_core;
use proto::envoy::extensions::filters::listener::proxy_protocol::v3 as pb;

use crate::core::{Metadata, unpack};
use crate::invalid::Problems;
use crate::refuse_set;

/// The metadata namespace of rules that name none.
pub const NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";

/// What a listener reads at the start of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// Connections without a header go on as they are.
    pub optional: bool,
    /// Version 1 is understood.
    pub v1: bool,
    /// Version 2 is understood.
    pub v2: bool,
    /// Which TLVs become dynamic metadata, by their type.
    pub rules: BTreeMap<u8, Place>,
    /// Which TLVs are kept for the upstream.
    pub pass: PassTlvs,
    /// Names its statistics further; may be empty.
    pub stat_prefix: String,
}

/// Where in the dynamic metadata a TLV goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub namespace: String,
    pub key: String,
}

/// Which TLVs are passed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PassTlvs {
    #[default]
    None,
    All,
    Only(Vec<u8>),
}

/// A type-length-value entry of version 2.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tlv {
    pub kind: u8,
    pub value: Bytes,
}

/// The header that a cluster's connections begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// 1 or 2.
    pub version: u8,
    /// Which of the client's TLVs are sent; only by version 2.
    pub pass: PassTlvs,
    /// TLVs that are always sent, in place of the client's of the same type; only by version 2.
    pub added: Vec<Tlv>,
}

/// The most bytes that the TLVs of a configuration may take together.
const MAX_TLVS: usize = 16 * 1024;

// === impl PassTlvs ===

impl PassTlvs {
    /// Whether TLVs of this type are passed on.
    pub fn admits(&self, kind: u8) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Only(kinds) => kinds.contains(&kind),
        }
    }
}

// === decode ===

/// Decodes the listener filter.
pub(crate) fn inbound(proto: &pb::ProxyProtocol, p: &mut Problems) -> Option<Inbound> {
    let before = p.count();
    refuse_set!(p, proto; tlv_location);
    let allowed =
        |version: pb_core::proxy_protocol_config::Version| !proto.disallowed_versions.contains(&(version as i32));
    let v1 = allowed(pb_core::proxy_protocol_config::Version::V1);
    let v2 = allowed(pb_core::proxy_protocol_config::Version::V2);
    if !v1 && !v2 {
        p.refuse_at::<()>("disallowed_versions", "at least one version must be allowed");
    }
    let rules = p.each("rules", &proto.rules, |p, rule| {
        let kind = tlv_type(rule.tlv_type, "tlv_type", p)?;
        let Some(pair) = &rule.on_tlv_present else {
            return p.refuse_at("on_tlv_present", "is required: a rule without it does nothing");
        };
        if pair.key.is_empty() {
            return p.refuse_at("on_tlv_present.key", "must not be empty");
        }
        let namespace = if pair.metadata_namespace.is_empty() { NAMESPACE } else { &pair.metadata_namespace };
        Some((kind, Place { namespace: namespace.to_owned(), key: pair.key.clone() }))
    });
    let inbound = Inbound {
        optional: proto.allow_requests_without_proxy_protocol,
        v1,
        v2,
        rules: rules.into_iter().collect(),
        pass: pass_tlvs(proto.pass_through_tlvs.as_ref(), p),
        stat_prefix: proto.stat_prefix.clone(),
    };
    (p.count() == before).then_some(inbound)
}

/// Decodes the configuration of a cluster's header.
pub(crate) fn outbound(proto: &pb_core::ProxyProtocolConfig, p: &mut Problems) -> Option<Outbound> {
    use pb_core::proxy_protocol_config::Version;
    let before = p.count();
    let version = match Version::try_from(proto.version) {
        Ok(Version::V1) => 1,
        Ok(Version::V2) => 2,
        Err(_) => p.refuse_at("version", format!("unknown value {}", proto.version)).unwrap_or(1),
    };
    let outbound = Outbound {
        version,
        pass: pass_tlvs(proto.pass_through_tlvs.as_ref(), p),
        added: tlvs("added_tlvs", &proto.added_tlvs, p),
    };
    if version == 1 && (outbound.pass != PassTlvs::None || !outbound.added.is_empty()) {
        p.refuse_at::<()>("version", "only V2 can carry TLVs");
    }
    (p.count() == before).then_some(outbound)
}

/// The TLVs of an endpoint, in its metadata; they take the place of the cluster's of the same type.
pub fn of_endpoint(metadata: &Metadata, p: &mut Problems) -> Vec<Tlv> {
    let Some(value) = metadata.get("envoy.transport_sockets.proxy_protocol") else { return Vec::new() };
    let config = match proto::json::any_from_value(value) {
        Ok(any) => unpack::<pb_core::PerHostConfig>(&any, p),
        Err(error) => {
            error.problems().iter().for_each(|problem| p.refuse(problem));
            None
        }
    };
    config.map_or_else(Vec::new, |config| tlvs("added_tlvs", &config.added_tlvs, p))
}

fn pass_tlvs(proto: Option<&pb_core::ProxyProtocolPassThroughTlVs>, p: &mut Problems) -> PassTlvs {
    use pb_core::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType as Type;
    let Some(proto) = proto else { return PassTlvs::None };
    p.at("pass_through_tlvs", |p| match Type::try_from(proto.match_type) {
        Ok(Type::IncludeAll) => PassTlvs::All,
        Ok(Type::Include) => {
            let kinds = p.at("tlv_type", |p| {
                let each = proto.tlv_type.iter().enumerate();
                each.filter_map(|(at, kind)| tlv_type(*kind, &format!("[{at}]"), p)).collect()
            });
            PassTlvs::Only(kinds)
        }
        Err(_) => p.refuse_at("match_type", format!("unknown value {}", proto.match_type)).unwrap_or(PassTlvs::None),
    })
}

/// Decodes the entries in the field `name`.
pub(crate) fn tlvs(name: &str, protos: &[pb_core::TlvEntry], p: &mut Problems) -> Vec<Tlv> {
    let tlvs = p.each(name, protos, |p, entry| {
        p.unimplemented_if("format_string", entry.format_string.is_some());
        Some(Tlv { kind: tlv_type(entry.r#type, "type", p)?, value: entry.value.clone() })
    });
    if tlvs.iter().map(|tlv| 3 + tlv.value.len()).sum::<usize>() > MAX_TLVS {
        p.refuse_at::<()>(name, format!("longer than {MAX_TLVS} bytes together"));
    }
    tlvs
}

fn tlv_type(number: u32, name: &str, p: &mut Problems) -> Option<u8> {
    match u8::try_from(number) {
        Ok(kind) => Some(kind),
        Err(_) => p.refuse_at(name, format!("{number} is not a TLV type (0 to 255)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(yaml: &str, expected: &str) {
        let mut p = Problems::default();
        let decoded = outbound(&proto::json::from_yaml(yaml).unwrap(), &mut p);
        let shown = match p.finish(decoded) {
            Ok(outbound) => format!("{} {:?} {}", outbound.version, outbound.pass, outbound.added.len()),
            Err(invalid) => invalid.to_string(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_header_is_of_a_version_that_can_carry_what_it_should() {
        check("{}", "1 None 0");
        check("{version: V2, pass_through_tlvs: {}, added_tlvs: [{type: 2, value: YQ==}]}", "2 All 1");
        check("{version: V2, pass_through_tlvs: {match_type: INCLUDE, tlv_type: [1, 224]}}", "2 Only([1, 224]) 0");
        check("{pass_through_tlvs: {}}", "version: only V2 can carry TLVs");
        check(
            "{version: V2, added_tlvs: [{type: 300}, {type: 1, format_string: {}}]}",
            "added_tlvs[0].type: 300 is not a TLV type (0 to 255); \
             added_tlvs[1].format_string: not implemented by weir-proxy",
        );
    }

    #[test]
    fn an_endpoint_may_have_tlvs_of_its_own() {
        let typed = serde_json::json!({
            "@type": "type.googleapis.com/envoy.config.core.v3.PerHostConfig",
            "added_tlvs": [{ "type": 224, "value": "YQ==" }],
        });
        let metadata = Metadata::from([("envoy.transport_sockets.proxy_protocol".to_owned(), typed)]);
        let tlvs = of_endpoint(&metadata, &mut Problems::default());
        assert_eq!(tlvs, [Tlv { kind: 224, value: Bytes::from_static(b"a") }]);
        assert_eq!(of_endpoint(&Metadata::new(), &mut Problems::default()), []);
    }

    #[test]
    fn a_rule_without_a_namespace_has_that_of_the_filter() {
        let yaml = "{rules: [{tlv_type: 2, on_tlv_present: {key: authority}}], disallowed_versions: [V1]}";
        let decoded = inbound(&proto::json::from_yaml(yaml).unwrap(), &mut Problems::default()).unwrap();
        assert_eq!(decoded.rules[&2], Place { namespace: NAMESPACE.into(), key: "authority".into() });
        assert_eq!((decoded.v1, decoded.v2), (false, true));
    }
}
