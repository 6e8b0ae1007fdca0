//! The client status discovery service: how far each node is, as this control plane sees it.

use std::sync::Arc;

use cp_fleet::{ConfigStatus, KindStatus, NodeStatus};
use proto::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use proto::envoy::config::core::v3::{Locality, Node};
use proto::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryService;
use proto::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus as WireStatus,
    client_config::GenericXdsConfig,
};
use proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use proto::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher};
use shared_xds::ResourceKind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::service::Shared;

pub(crate) struct ClientStatuses(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl ClientStatusDiscoveryService for ClientStatuses {
    type StreamClientStatusStream = ReceiverStream<Result<ClientStatusResponse, Status>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let (out, responses) = mpsc::channel(1);
        let shared = self.0.clone();
        let mut inbound = request.into_inner();
        tokio::spawn(async move {
            let asked = async {
                while let Ok(Some(request)) = inbound.message().await {
                    if out.send(answer(&shared, &request)).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = asked => {}
                () = shared.stopped() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        answer(&self.0, request.get_ref()).map(Response::new)
    }
}

fn answer(shared: &Shared, request: &ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
    let mut config = Vec::new();
    for node in shared.fleet.nodes() {
        if is_asked_for(&node, &request.node_matchers)? {
            config.push(client_config(&node));
        }
    }
    Ok(ClientStatusResponse { config })
}

fn is_asked_for(node: &NodeStatus, matchers: &[NodeMatcher]) -> Result<bool, Status> {
    if matchers.is_empty() {
        return Ok(true);
    }
    for matcher in matchers {
        if !matcher.node_metadatas.is_empty() {
            return Err(Status::unimplemented("node_metadatas is not implemented; match by node_id"));
        }
        let matches = matcher.node_id.as_ref().map_or(Ok(true), |id| is_match(&node.info.id, id))?;
        if matches {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_match(text: &str, matcher: &StringMatcher) -> Result<bool, Status> {
    let fold = |text: &str| if matcher.ignore_case { text.to_lowercase() } else { text.to_owned() };
    let text = fold(text);
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(pattern)) => Ok(text == fold(pattern)),
        Some(MatchPattern::Prefix(pattern)) => Ok(text.starts_with(&fold(pattern))),
        Some(MatchPattern::Suffix(pattern)) => Ok(text.ends_with(&fold(pattern))),
        Some(MatchPattern::Contains(pattern)) => Ok(text.contains(&fold(pattern))),
        _ => Err(Status::unimplemented("node_id is matched by exact, prefix, suffix or contains")),
    }
}

fn client_config(node: &NodeStatus) -> ClientConfig {
    let locality = &node.info.locality;
    let wire = Node {
        id: node.info.id.clone(),
        cluster: node.info.cluster.clone(),
        metadata: Some(node.info.metadata.clone()),
        locality: Some(Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.sub_zone.clone(),
        }),
        user_agent_name: node.info.user_agent.clone(),
        client_features: node.info.client_features.clone(),
        ..Default::default()
    };
    let generic_xds_configs = node.kinds.iter().map(|(kind, status)| kind_config(*kind, status)).collect();
    ClientConfig { node: Some(wire), generic_xds_configs, ..Default::default() }
}

fn kind_config(kind: ResourceKind, status: &KindStatus) -> GenericXdsConfig {
    let (config_status, client_status) = match status.status() {
        ConfigStatus::NotSent => (WireStatus::NotSent, ClientResourceStatus::Unknown),
        ConfigStatus::Synced => (WireStatus::Synced, ClientResourceStatus::Acked),
        ConfigStatus::Stale => (WireStatus::Stale, ClientResourceStatus::Requested),
        ConfigStatus::Error => (WireStatus::Error, ClientResourceStatus::Nacked),
    };
    let error_state = status.refusal.as_ref().map(|refusal| UpdateFailureState {
        details: refusal.message.clone(),
        version_info: refusal.version.to_string(),
        last_update_attempt: Some(refusal.at.into()),
        ..Default::default()
    });
    GenericXdsConfig {
        type_url: kind.type_url().to_owned(),
        version_info: status.acked.map(|version| version.to_string()).unwrap_or_default(),
        last_updated: status.acked_at.map(Into::into),
        config_status: config_status as i32,
        client_status: client_status as i32,
        error_state,
        ..Default::default()
    }
}
