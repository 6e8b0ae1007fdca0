//! What a client says of itself.
//!
//! Stock Envoy sends 60 KB of extension names; equal lists are kept once.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use proto::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use shared_xds::Version;

/// The families of clients that need different resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Our own data plane.
    Weir,
    /// Stock Envoy, and whoever does not say.
    Envoy,
    /// gRPC without a proxy.
    Grpc,
}

impl Class {
    fn of(user_agent: &str) -> Self {
        let agent = user_agent.to_ascii_lowercase();
        if agent.starts_with("weir") {
            Self::Weir
        } else if agent.starts_with("grpc") {
            Self::Grpc
        } else {
            Self::Envoy
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weir => "weir",
            Self::Envoy => "envoy",
            Self::Grpc => "grpc",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

/// One node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeInfo {
    pub id: String,
    pub cluster: String,
    pub locality: Locality,
    pub metadata: prost_types::Struct,
    pub user_agent: String,
    pub version: String,
    pub class: Class,
    pub client_features: Vec<String>,
    /// The names of its extensions, sorted.
    pub extensions: Arc<[String]>,
}

impl NodeInfo {
    pub(crate) fn new(node: Node, interner: &mut Interner) -> Self {
        let names = node.extensions.into_iter().filter(|e| !e.disabled).map(|extension| extension.name).collect();
        let locality = node.locality.unwrap_or_default();
        Self {
            id: node.id,
            cluster: node.cluster,
            locality: Locality { region: locality.region, zone: locality.zone, sub_zone: locality.sub_zone },
            metadata: node.metadata.unwrap_or_default(),
            class: Class::of(&node.user_agent_name),
            user_agent: node.user_agent_name,
            version: node.user_agent_version_type.map(version_text).unwrap_or_default(),
            client_features: node.client_features,
            extensions: interner.intern(names),
        }
    }

    pub fn has_feature(&self, feature: &str) -> bool {
        self.client_features.iter().any(|known| known == feature)
    }

    pub fn has_extension(&self, name: &str) -> bool {
        self.extensions.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    /// A piece of text in the metadata, by its path.
    pub fn label(&self, key: &str) -> Option<&str> {
        match self.metadata.fields.get(key)?.kind.as_ref()? {
            prost_types::value::Kind::StringValue(text) => Some(text),
            _ => None,
        }
    }
}

fn version_text(version: UserAgentVersionType) -> String {
    match version {
        UserAgentVersionType::UserAgentVersion(text) => text,
        UserAgentVersionType::UserAgentBuildVersion(build) => {
            let version = build.version.unwrap_or_default();
            format!("{}.{}.{}", version.major_number, version.minor_number, version.patch)
        }
    }
}

/// Extension lists by the hash of their content, as long as a node has them.
#[derive(Debug, Default)]
pub(crate) struct Interner(HashMap<Version, Weak<[String]>>);

impl Interner {
    fn intern(&mut self, mut names: Vec<String>) -> Arc<[String]> {
        names.sort();
        names.dedup();
        let key = Version::of_set(names.iter().map(|name| (name.as_str(), Version::of(b""))));
        if let Some(known) = self.0.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        self.0.retain(|_, list| list.strong_count() > 0);
        let list: Arc<[String]> = names.into();
        self.0.insert(key, Arc::downgrade(&list));
        list
    }
}
