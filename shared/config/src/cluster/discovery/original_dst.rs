//! Clusters whose endpoint is where the client wanted to go: `ORIGINAL_DST`, old field and typed extension.

use std::time::Duration;

use proto::envoy::config::cluster::v3 as wire;
use proto::envoy::config::cluster::v3::cluster as kind;
use proto::envoy::extensions::clusters::original_dst::v3::OriginalDstCluster;
use proto::envoy::r#type::metadata::v3 as metadata;

use crate::cluster::wire::positive;
use crate::invalid::Problems;

/// Where the destination of a request comes from: dynamic metadata, a header, the address that the client connected
/// to; the first that there is.
#[derive(Debug, Clone, PartialEq)]
pub struct OriginalDst {
    pub metadata: Option<MetadataKey>,
    /// In lower case. Whoever can send it chooses where requests go.
    pub header: Option<String>,
    /// Takes the place of the port of the destination.
    pub port: Option<u16>,
    /// An endpoint that nobody used for this long is forgotten.
    pub cleanup_interval: Duration,
}

/// A place in dynamic metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataKey {
    pub filter: String,
    /// Dotted.
    pub path: String,
}

const DEFAULT_HEADER: &str = "x-envoy-original-dst-host";
const DEFAULT_CLEANUP: Duration = Duration::from_secs(5);

impl OriginalDst {
    /// The cluster type of old, with `original_dst_lb_config`.
    pub(super) fn old(proto: &wire::Cluster, p: &mut Problems) -> Option<Self> {
        let Some(kind::LbConfig::OriginalDstLbConfig(config)) = &proto.lb_config else {
            return Self::decode(proto, false, "", None, None, p);
        };
        p.at("original_dst_lb_config", |p| {
            Self::decode(
                proto,
                config.use_http_header,
                &config.http_header_name,
                config.upstream_port_override,
                config.metadata_key.as_ref(),
                p,
            )
        })
    }

    pub(super) fn extension(proto: &wire::Cluster, config: &OriginalDstCluster, p: &mut Problems) -> Option<Self> {
        Self::decode(
            proto,
            config.use_http_header,
            &config.http_header_name,
            config.upstream_port_override,
            config.metadata_key.as_ref(),
            p,
        )
    }

    fn decode(
        cluster: &wire::Cluster,
        use_header: bool,
        header: &str,
        port: Option<u32>,
        key: Option<&metadata::MetadataKey>,
        p: &mut Problems,
    ) -> Option<Self> {
        if !use_header && !header.is_empty() {
            return p.refuse_at("http_header_name", "has no effect without use_http_header: true");
        }
        let port = match port.map(u16::try_from) {
            Some(Err(_) | Ok(0)) => return p.refuse_at("upstream_port_override", "must be from 1 to 65535"),
            Some(Ok(port)) => Some(port),
            None => None,
        };
        let metadata = match key {
            Some(key) => Some(p.at("metadata_key", |p| MetadataKey::decode(key, p))?),
            None => None,
        };
        let header = if header.is_empty() { DEFAULT_HEADER.to_owned() } else { header.to_ascii_lowercase() };
        Some(Self {
            metadata,
            header: use_header.then_some(header),
            port,
            cleanup_interval: positive("cleanup_interval", cluster.cleanup_interval.as_ref(), p)
                .unwrap_or(DEFAULT_CLEANUP),
        })
    }
}

impl MetadataKey {
    fn decode(proto: &metadata::MetadataKey, p: &mut Problems) -> Option<Self> {
        use metadata::metadata_key::path_segment::Segment;
        if proto.key.is_empty() {
            return p.refuse_at("key", "is empty");
        }
        if proto.path.is_empty() {
            return p.refuse_at("path", "is empty");
        }
        let keys: Vec<String> = p.each("path", &proto.path, |p, segment| match &segment.segment {
            Some(Segment::Key(key)) if !key.is_empty() => Some(key.clone()),
            _ => p.refuse_at("key", "is empty"),
        });
        Some(Self { filter: proto.key.clone(), path: keys.join(".") })
    }
}
