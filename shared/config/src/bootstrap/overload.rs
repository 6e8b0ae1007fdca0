//! Decodes the overload manager: the limit of connections of the whole process, which is all that is implemented of it.

use proto::envoy::config::overload::v3 as pb;

use crate::core::extension;
use crate::invalid::Problems;
use crate::refuse_set;

const CONNECTIONS: &str = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";

/// Decodes the most connections of clients that may be open at a time.
pub(super) fn max_connections(proto: &pb::OverloadManager, p: &mut Problems) -> Option<u64> {
    // `refresh_interval`: connections are counted as they come and go.
    refuse_set!(p, proto; actions, loadshed_points, buffer_factory_config);
    if proto.resource_monitors.is_empty() {
        return p.refuse_at("resource_monitors", "at least one is required");
    }
    let limits = p.each("resource_monitors", &proto.resource_monitors, |p, monitor| {
        let Some(pb::resource_monitor::ConfigType::TypedConfig(any)) = &monitor.config_type else {
            return p.refuse_at("typed_config", "is required");
        };
        p.at("typed_config", |p| {
            let any = extension(any, p)?;
            if any.type_name() != CONNECTIONS {
                p.refuse(format!("resource monitor {} is not implemented by weir-proxy", any.type_name()));
                return None;
            }
            // The message is in the descriptor set, but not among the generated types.
            let value = proto::json::to_value(&any, proto::json::Secrets::Shown).unwrap_or_default();
            let max = match &value["max_active_downstream_connections"] {
                serde_json::Value::String(text) => text.parse().ok(),
                number => number.as_u64(),
            };
            match max {
                Some(max) if max > 0 => Some(max),
                _ => p.refuse_at("max_active_downstream_connections", "must be greater than 0"),
            }
        })
    });
    limits.into_iter().min()
}
