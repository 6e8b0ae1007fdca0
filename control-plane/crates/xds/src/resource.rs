//! Resources as they are published, with what must be sent again when they change.

use std::sync::Arc;

use prost::Message;
use proto::Any;
use proto::envoy::config::cluster::v3::Cluster;
use proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use proto::envoy::config::core::v3::{TransportSocket, transport_socket};
use proto::envoy::config::listener::v3::Listener;
use proto::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, UpstreamTlsContext,
    common_tls_context::ValidationContextType,
};
use shared_xds::{Resource, ResourceError, ResourceKind};

/// A resource to publish.
pub type Res = Resource;

type References = Vec<(ResourceKind, Arc<str>)>;

/// A resource to publish under the name inside it. A client that takes a changed cluster or listener waits for its
/// endpoints and secrets and may not ask for them again, so they are noted here.
///
/// # Errors
/// The type is unknown, the bytes are no message of it, or it has no name.
pub fn resource(any: Any) -> Result<Res, ResourceError> {
    let resource = Resource::new(any)?;
    let undecodable = |error| ResourceError::Undecodable(resource.kind, error);
    let references = match resource.kind {
        ResourceKind::Cluster => of_cluster(&Cluster::decode(resource.any.value.clone()).map_err(undecodable)?),
        ResourceKind::Listener => of_listener(&Listener::decode(resource.any.value.clone()).map_err(undecodable)?),
        _ => References::new(),
    };
    Ok(resource.with_refresh(references))
}

fn of_cluster(cluster: &Cluster) -> References {
    let mut references = References::new();
    if matches!(cluster.cluster_discovery_type, Some(ClusterDiscoveryType::Type(kind)) if kind == DiscoveryType::Eds as i32)
    {
        let service = cluster.eds_cluster_config.as_ref().map_or("", |config| &config.service_name);
        let name = if service.is_empty() { &cluster.name } else { service };
        references.push((ResourceKind::Endpoints, name.into()));
    }
    let sockets = cluster.transport_socket_matches.iter().filter_map(|each| each.transport_socket.as_ref());
    for socket in cluster.transport_socket.iter().chain(sockets) {
        of_socket(socket, &mut references);
    }
    references
}

fn of_listener(listener: &Listener) -> References {
    let mut references = References::new();
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    for socket in chains.filter_map(|chain| chain.transport_socket.as_ref()) {
        of_socket(socket, &mut references);
    }
    references
}

fn of_socket(socket: &TransportSocket, references: &mut References) {
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return;
    };
    let upstream = any.unpack::<UpstreamTlsContext>().and_then(Result::ok).and_then(|tls| tls.common_tls_context);
    let downstream = any.unpack::<DownstreamTlsContext>().and_then(Result::ok).and_then(|tls| tls.common_tls_context);
    for context in upstream.iter().chain(&downstream) {
        of_tls(context, references);
    }
}

fn of_tls(context: &CommonTlsContext, references: &mut References) {
    let mut add = |config: &SdsSecretConfig| references.push((ResourceKind::Secret, config.name.as_str().into()));
    context.tls_certificate_sds_secret_configs.iter().for_each(&mut add);
    match &context.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => add(config),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined.validation_context_sds_secret_config.iter().for_each(&mut add);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proto::envoy::config::cluster::v3::cluster::EdsClusterConfig;

    use super::*;

    fn secret(name: &str) -> SdsSecretConfig {
        SdsSecretConfig { name: name.to_owned(), ..Default::default() }
    }

    fn socket(any: Any) -> Option<TransportSocket> {
        let config_type = Some(transport_socket::ConfigType::TypedConfig(any));
        Some(TransportSocket { name: "tls".to_owned(), config_type })
    }

    #[test]
    fn a_cluster_refreshes_its_endpoints_and_its_secrets() {
        let validation = ValidationContextType::ValidationContextSdsSecretConfig(secret("ca"));
        let common_tls_context = Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![secret("client")],
            validation_context_type: Some(validation),
            ..Default::default()
        });
        let cluster = Cluster {
            name: "a".to_owned(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
            eds_cluster_config: Some(EdsClusterConfig { service_name: "service".to_owned(), ..Default::default() }),
            transport_socket: socket(Any::pack(&UpstreamTlsContext { common_tls_context, ..Default::default() })),
            ..Default::default()
        };
        let found = resource(Any::pack(&cluster)).expect("valid").refresh;
        let expected = [
            (ResourceKind::Endpoints, "service".into()),
            (ResourceKind::Secret, "client".into()),
            (ResourceKind::Secret, "ca".into()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_cluster_is_refused() {
        let any =
            Any { type_url: ResourceKind::Cluster.type_url().to_owned(), value: vec![0x0a, 1, b'a', 0x0d].into() };
        assert!(matches!(resource(any), Err(ResourceError::Undecodable(ResourceKind::Cluster, _))));
    }
}
