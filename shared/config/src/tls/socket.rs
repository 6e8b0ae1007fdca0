//! Decodes the transport sockets of filter chains: TLS or plain bytes.

use proto::envoy::config::core::v3 as pb_core;
use proto::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::{DownstreamTls, downstream};
use crate::core::{extension, unpack};
use crate::invalid::Problems;

/// Decodes the transport socket of a filter chain; `None` inside is plain bytes.
pub fn downstream_socket(proto: &pb_core::TransportSocket, p: &mut Problems) -> Option<Option<DownstreamTls>> {
    let Some(pb_core::transport_socket::ConfigType::TypedConfig(any)) = &proto.config_type else {
        if proto.name == "envoy.transport_sockets.raw_buffer" {
            return Some(None);
        }
        return p.refuse_at("typed_config", "is required");
    };
    p.at("typed_config", |p| {
        let any = extension(any, p)?;
        match any.type_name() {
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Some(None),
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {
                downstream(&unpack::<pb::DownstreamTlsContext>(&any, p)?, p).map(Some)
            }
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => {
                p.refuse("UpstreamTlsContext is for clusters, a filter chain needs DownstreamTlsContext");
                None
            }
            other => {
                p.refuse(format!("transport socket {other} is not implemented by weir-proxy"));
                None
            }
        }
    })
}
