//! What we say of ourselves on the first request of a stream.

use proto::envoy::config::core::v3 as core;

/// One extension that this build has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// `envoy.filters.http.router`.
    pub name: String,
    /// `envoy.filters.http`.
    pub category: String,
    /// The full names of the messages that configure it.
    pub type_urls: Vec<String>,
}

/// Who this proxy is.
#[derive(Debug, Clone, Default)]
pub struct NodeIdentity {
    pub id: String,
    pub cluster: String,
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
    pub metadata: prost_types::Struct,
    /// Ours, three numbers with dots.
    pub version: String,
    pub extensions: Vec<Extension>,
    /// Beside those that follow from what this crate can do.
    pub client_features: Vec<String>,
}

impl NodeIdentity {
    pub(crate) fn encode(self) -> core::Node {
        let mut client_features = self.client_features;
        client_features.push(shared_xds::mark::CLIENT_FEATURE.to_owned());
        client_features.push("xds.config.resource-in-sotw".to_owned());
        let mut numbers = self.version.split('.').map(|part| part.parse().unwrap_or_default());
        let mut number = || numbers.next().unwrap_or_default();
        let version = proto::envoy::r#type::v3::SemanticVersion {
            major_number: number(),
            minor_number: number(),
            patch: number(),
        };
        let version = core::BuildVersion { version: Some(version), metadata: None };
        let extensions = self.extensions.into_iter().map(|extension| core::Extension {
            name: extension.name,
            category: extension.category,
            type_urls: extension.type_urls,
            ..Default::default()
        });
        core::Node {
            id: self.id,
            cluster: self.cluster,
            metadata: Some(self.metadata),
            locality: Some(core::Locality { region: self.region, zone: self.zone, sub_zone: self.sub_zone }),
            user_agent_name: "weir-proxy".to_owned(),
            user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentBuildVersion(version)),
            extensions: extensions.collect(),
            client_features,
            ..Default::default()
        }
    }
}
