//! Any xDS resource, decoded: the one way from the wire to the plain types, for both planes.

use proto::Any;
use proto::envoy::config::core::v3::TypedExtensionConfig;
use proto::envoy::config::route::v3 as pb_route;
use proto::envoy::config::{cluster::v3 as pb_cluster, endpoint::v3 as pb_endpoint, listener::v3 as pb_listener};
use proto::envoy::extensions::transport_sockets::tls::v3 as pb_tls;

use crate::cluster::Cluster;
use crate::core::unpack;
use crate::endpoint::{self, Assignment};
use crate::http_filter::{self, HttpFilterConfig};
use crate::invalid::{Invalid, Problem, Problems};
use crate::listener::{self, Listener};
use crate::route::RouteConfiguration;
use crate::secret::{self, Secret};

/// A decoded resource.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// LDS.
    Listener(Box<Listener>),
    /// CDS.
    Cluster(Box<Cluster>),
    /// EDS.
    Endpoints(Box<Assignment>),
    /// RDS.
    Routes(Box<RouteConfiguration>),
    /// SDS.
    Secret(Box<Secret>),
    /// ECDS.
    Extension(Box<Extension>),
}

/// The configuration of an HTTP filter that comes by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Extension {
    /// The name of the filter.
    pub name: String,
    /// Its configuration.
    pub config: HttpFilterConfig,
}

impl Resource {
    /// The name of the resource.
    pub fn name(&self) -> &str {
        match self {
            Self::Listener(listener) => &listener.name,
            Self::Cluster(cluster) => &cluster.name,
            Self::Endpoints(assignment) => &assignment.cluster,
            Self::Routes(routes) => &routes.name,
            Self::Secret(secret) => &secret.name,
            Self::Extension(extension) => &extension.name,
        }
    }
}

/// Decodes a resource of any type; its constraints (PGV) are checked too.
///
/// # Errors
/// Every problem of the resource, with its field path.
pub fn decode_resource(any: &Any) -> Result<Resource, Invalid> {
    let mut problems = Problems::default();
    let resource = decode(any, &mut problems);
    problems.finish(resource)
}

/// Decodes a resource inside another one.
pub(crate) fn decode(any: &Any, p: &mut Problems) -> Option<Resource> {
    let before = p.count();
    let mut own = Problems::default();
    let decoded = by_type(any, &mut own);
    for warning in own.warnings() {
        p.warn(&warning.path, &warning.reason);
    }
    let (resource, mut problems) = match own.finish(decoded) {
        Ok(resource) => (Some(resource), Vec::new()),
        Err(Invalid(problems)) => (None, problems),
    };
    // What a decoder says about a field is better than what its constraint says.
    add_missing(&mut problems, pgv_problems(any.type_name(), &any.value));
    for problem in problems {
        match problem.path.as_str() {
            "" => p.refuse(problem.reason),
            path => p.at(path, |p| p.refuse(problem.reason)),
        }
    }
    resource.filter(|_| p.count() == before)
}

fn by_type(any: &Any, p: &mut Problems) -> Option<Resource> {
    match any.type_name() {
        "envoy.config.listener.v3.Listener" => {
            let proto: pb_listener::Listener = unpack(any, p)?;
            Some(Resource::Listener(Box::new(listener::decode(&proto, p)?)))
        }
        "envoy.config.cluster.v3.Cluster" => {
            let proto: pb_cluster::Cluster = unpack(any, p)?;
            Some(Resource::Cluster(Box::new(Cluster::decode(&proto, p)?)))
        }
        "envoy.config.endpoint.v3.ClusterLoadAssignment" => {
            let proto: pb_endpoint::ClusterLoadAssignment = unpack(any, p)?;
            Some(Resource::Endpoints(Box::new(endpoint::decode_resource(&proto, p)?)))
        }
        "envoy.config.route.v3.RouteConfiguration" => {
            let proto: pb_route::RouteConfiguration = unpack(any, p)?;
            Some(Resource::Routes(Box::new(RouteConfiguration::decode(&proto, p)?)))
        }
        "envoy.extensions.transport_sockets.tls.v3.Secret" => {
            let proto: pb_tls::Secret = unpack(any, p)?;
            Some(Resource::Secret(Box::new(secret::decode(&proto, p)?)))
        }
        "envoy.config.core.v3.TypedExtensionConfig" => {
            let proto: TypedExtensionConfig = unpack(any, p)?;
            let Some(config) = &proto.typed_config else { return p.refuse_at("typed_config", "is required") };
            let config = p.at("typed_config", |p| http_filter::decode_config(config, false, p))?;
            Some(Resource::Extension(Box::new(Extension { name: proto.name, config })))
        }
        other => {
            p.refuse(format!("resource type {other:?} is not implemented by weir-proxy"));
            None
        }
    }
}

/// Adds those of `more` that are about a field of which nothing was said yet, nor of what it is in.
pub(crate) fn add_missing(problems: &mut Vec<Problem>, more: Vec<Problem>) {
    for problem in more {
        let said = problems.iter().any(|other| match problem.path.strip_prefix(&other.path) {
            Some(rest) if other.path.is_empty() => rest.is_empty(),
            Some(rest) => rest.is_empty() || rest.starts_with(['.', '[']),
            None => false,
        });
        if !said {
            problems.push(problem);
        }
    }
}

/// The constraints that the message breaks.
pub(crate) fn pgv_problems(type_name: &str, bytes: &[u8]) -> Vec<Problem> {
    proto::pgv::validate(type_name, bytes)
        .into_iter()
        .map(|problem| Problem { path: problem.path, reason: problem.reason })
        .collect()
}

#[cfg(test)]
mod tests;
