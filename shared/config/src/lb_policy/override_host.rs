//! `override_host`: the request itself says which endpoint it wants; another policy picks when it does not.

use proto::envoy::extensions::load_balancing_policies::override_host::v3 as wire;
use proto::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;

use crate::header::is_header_name;
use crate::invalid::Problems;

/// Where addresses of endpoints stand, separated by commas: the first for the first try, the next for the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverrideSource {
    /// Lower case.
    Header(String),
    /// What a filter wrote into the dynamic metadata.
    Metadata { namespace: String, key: String },
}

impl OverrideSource {
    pub(super) fn decode(proto: &wire::override_host::OverrideHostSource, p: &mut Problems) -> Option<Self> {
        match (&*proto.header, &proto.metadata) {
            (header, None) if is_header_name(header) => Some(Self::Header(header.to_ascii_lowercase())),
            ("", Some(key)) => p.at("metadata", |p| {
                let [segment] = &*key.path else {
                    return p.refuse_at("path", "one segment is implemented by weir-proxy");
                };
                match &segment.segment {
                    Some(Segment::Key(segment)) => {
                        Some(Self::Metadata { namespace: key.key.clone(), key: segment.clone() })
                    }
                    _ => p.refuse_at("path", "the segment needs a key"),
                }
            }),
            _ => {
                p.refuse("needs either the name of a header or metadata");
                None
            }
        }
    }
}
