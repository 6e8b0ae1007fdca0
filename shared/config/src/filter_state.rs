//! What `set_filter_state` filters write, of requests and of connections.

use proto::envoy::extensions::filters::common::set_filter_state::v3 as pb;
use proto::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value as value;

use crate::invalid::Problems;
use crate::substitution::{SubstitutionFormat, Template};

/// Names the cluster that the TCP proxy takes, before any of its own.
pub const TCP_CLUSTER: &str = "envoy.tcp_proxy.cluster";
/// Texts, and texts that hash policies can use.
const STRING: &str = "envoy.string";
const HASHABLE: &str = "envoy.hashable_string";

/// An object to write.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterStateValue {
    pub key: String,
    /// Never [`Template::Source`].
    pub format: SubstitutionFormat,
    /// Hash policies find it.
    pub hashable: bool,
    /// An empty text is not written.
    pub skip_if_empty: bool,
}

/// Decodes the values in the field `name`. Only a connection can choose the cluster of its TCP proxy.
pub(crate) fn values(
    name: &str,
    protos: &[pb::FilterStateValue],
    of_connection: bool,
    p: &mut Problems,
) -> Vec<FilterStateValue> {
    p.each(name, protos, |p, proto| decode(proto, of_connection, p))
}

fn decode(proto: &pb::FilterStateValue, of_connection: bool, p: &mut Problems) -> Option<FilterStateValue> {
    // `read_only` is deprecated and has no effect in Envoy either.
    if proto.shared_with_upstream != value::SharedWithUpstream::None as i32 {
        p.unimplemented("shared_with_upstream");
    }
    let Some(value::Key::ObjectKey(key)) = &proto.key else { return p.refuse_at("object_key", "is required") };
    if key.is_empty() {
        return p.refuse_at("object_key", "must not be empty");
    }
    let factory = if proto.factory_key.is_empty() { key } else { &proto.factory_key };
    let known = match factory.as_str() {
        STRING | HASHABLE => !acts(key),
        TCP_CLUSTER => of_connection && key == TCP_CLUSTER,
        _ => false,
    };
    if !known {
        return p.refuse_at("factory_key", format!("weir-proxy cannot make {key:?} by {factory:?}: {}", hint(key)));
    }
    let Some(value::Value::FormatString(format)) = &proto.value else {
        return p.refuse_at("format_string", "is required");
    };
    let format = p.at("format_string", |p| {
        let format = SubstitutionFormat::decode(format, p)?;
        match format.template {
            Template::Source(_) => p.refuse_at("text_format_source", "must be inline"),
            _ => Some(format),
        }
    })?;
    Some(FilterStateValue {
        key: key.clone(),
        format,
        hashable: factory == HASHABLE,
        skip_if_empty: proto.skip_if_empty,
    })
}

/// Whether Envoy does something by what stands under this key.
fn acts(key: &str) -> bool {
    key.starts_with("envoy.") && ![STRING, HASHABLE].contains(&key)
}

fn hint(key: &str) -> String {
    match key {
        TCP_CLUSTER => "only a network filter can choose the cluster of a TCP proxy".to_owned(),
        _ if acts(key) => "what Envoy does by this key is not implemented".to_owned(),
        _ => format!("use {STRING}, or {HASHABLE} for hash policies"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(yaml: &str, of_connection: bool, expected: &str) {
        let mut p = Problems::default();
        let decoded = decode(&proto::json::from_yaml(yaml).unwrap(), of_connection, &mut p);
        let shown = match p.finish(decoded) {
            Ok(value) => format!("{} {:?} {}", value.key, value.format.template, value.hashable),
            Err(invalid) => invalid.to_string(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_value_is_a_text_unless_envoy_acts_by_it() {
        let format = "format_string: {text_format_source: {inline_string: '%PROTOCOL%'}}";
        let value = |fields: &str| format!("{{{fields}, {format}}}");
        check(&value("object_key: a, factory_key: envoy.string"), false, "a Text(\"%PROTOCOL%\") false");
        check(&value("object_key: a, factory_key: envoy.hashable_string"), false, "a Text(\"%PROTOCOL%\") true");
        check(&value("object_key: envoy.hashable_string"), true, "envoy.hashable_string Text(\"%PROTOCOL%\") true");
        check(
            &value("object_key: envoy.tcp_proxy.cluster"),
            true,
            "envoy.tcp_proxy.cluster Text(\"%PROTOCOL%\") false",
        );
        check(
            &value("object_key: envoy.tcp_proxy.cluster"),
            false,
            "factory_key: weir-proxy cannot make \"envoy.tcp_proxy.cluster\" by \"envoy.tcp_proxy.cluster\": only a \
             network filter can choose the cluster of a TCP proxy",
        );
        check(
            &value("object_key: envoy.network.upstream_server_name, factory_key: envoy.string"),
            true,
            "factory_key: weir-proxy cannot make \"envoy.network.upstream_server_name\" by \"envoy.string\": what Envoy \
             does by this key is not implemented",
        );
        check(
            &value("object_key: a"),
            true,
            "factory_key: weir-proxy cannot make \"a\" by \"a\": use envoy.string, or envoy.hashable_string for hash \
             policies",
        );
        check(
            &value("object_key: a, factory_key: envoy.string, shared_with_upstream: ONCE"),
            true,
            "shared_with_upstream: not implemented by weir-proxy",
        );
        check("{object_key: a, factory_key: envoy.string}", true, "format_string: is required");
    }
}
