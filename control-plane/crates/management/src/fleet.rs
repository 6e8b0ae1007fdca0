//! FleetService, whatever the wire: the nodes, and what became of their configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use cp_fleet::{Class, ConfigStatus, Fleet, KindStatus, NodeStatus};
use cp_pipeline::{Pipeline, Publisher, ResourceKind, Version};
use proto::json::Secrets;
use proto::weir::management::v1 as pb;

use crate::failure::Failure;

#[derive(Clone)]
pub struct FleetCore {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) publisher: Publisher,
    pub(crate) pipeline: Arc<Pipeline>,
}

impl FleetCore {
    pub fn new(fleet: Arc<Fleet>, publisher: Publisher, pipeline: Arc<Pipeline>) -> Self {
        FleetCore { fleet, publisher, pipeline }
    }

    /// Which route of the newest revision a request takes.
    pub(crate) async fn route_test(self, r: pb::RouteTestRequest) -> Result<pb::RouteTestResponse, Failure> {
        let request = cp_explain::Request::parse(&r.request, &r.headers).map_err(|e| Failure::request("request", e))?;
        let state = self.pipeline.state(0).await?;
        let resources = self.pipeline.resources(&state.draft)?;
        let wrong = |e: cp_explain::Unexplained| Failure::request("listener", e.to_string());
        let configuration = cp_explain::Configuration::new(&resources, &state.draft).map_err(wrong)?;
        let listener = Some(r.listener.as_str()).filter(|l| !l.is_empty());
        let report = configuration.explain(&request, listener).map_err(wrong)?;
        Ok(pb::RouteTestResponse { revision: state.header.map_or(0, |h| h.id), ..report.into() })
    }

    /// The nodes of a group that is defined, or all for an empty name.
    pub(crate) fn list(&self, group: &str) -> Result<Vec<pb::Node>, Failure> {
        let groups = self.pipeline.groups();
        if !group.is_empty() && !groups.names().any(|name| name == group) {
            return Err(Failure::unknown("group", group, groups.names()));
        }
        let mut nodes: Vec<pb::Node> = self.fleet.nodes().iter().map(|n| self.node(n)).collect();
        nodes.retain(|n| group.is_empty() || n.group == group);
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(nodes)
    }

    pub(crate) fn get(&self, id: &str) -> Result<pb::Node, Failure> {
        Ok(self.node(&self.status(id)?))
    }

    fn status(&self, id: &str) -> Result<NodeStatus, Failure> {
        self.fleet.node(id).ok_or_else(|| {
            let nodes = self.fleet.nodes();
            Failure::unknown("node", id, nodes.iter().map(|n| n.info.id.as_str()))
        })
    }

    /// What there is for a node, as far as it asked for it.
    pub(crate) fn config(&self, r: &pb::GetNodeConfigRequest) -> Result<pb::GetNodeConfigResponse, Failure> {
        let status = self.status(&r.id)?;
        let mut resources = Vec::new();
        if let Some(snapshot) = self.publisher.latest(&status.group, status.info.class) {
            for (kind, kind_status) in &status.kinds {
                if !r.type_url.is_empty() && kind.type_url() != r.type_url {
                    continue;
                }
                for resource in snapshot.sets[*kind].iter() {
                    let refusal =
                        kind_status.refusal.as_ref().filter(|f| f.names.iter().any(|n| **n == *resource.name));
                    let json = proto::json::to_value(&resource.any, Secrets::Redacted);
                    resources.push(pb::NodeResource {
                        type_url: kind.type_url().to_owned(),
                        name: resource.name.to_string(),
                        version: resource.version.to_string(),
                        status: if refusal.is_some() { pb::SyncStatus::Error } else { sync(kind_status) }.into(),
                        json: json.map(|v| v.to_string()).unwrap_or_default(),
                        error: refusal.map(|f| f.message.clone()).unwrap_or_default(),
                    });
                }
            }
        }
        Ok(pb::GetNodeConfigResponse { node: Some(self.node(&status)), resources })
    }

    fn node(&self, status: &NodeStatus) -> pb::Node {
        let info = &status.info;
        let snapshot = self.publisher.latest(&status.group, info.class);
        let types = status.kinds.iter().map(|(kind, kind_status)| {
            let there = snapshot.as_ref().map(|s| s.sets[*kind].len()).unwrap_or_default();
            type_status(*kind, kind_status, snapshot.as_ref().map_or(0, |s| s.revision), there)
        });
        let mut types: Vec<pb::TypeStatus> = types.collect();
        types.sort_by(|a, b| a.type_url.cmp(&b.type_url));
        let version = if info.version.is_empty() { String::new() } else { format!("/{}", info.version) };
        pb::Node {
            id: info.id.clone(),
            cluster: info.cluster.clone(),
            labels: labels(status),
            client_class: match info.class {
                Class::Weir => pb::ClientClass::Weir,
                Class::Envoy => pb::ClientClass::Envoy,
                Class::Grpc => pb::ClientClass::Grpc,
            }
            .into(),
            user_agent: format!("{}{version}", info.user_agent),
            group: status.group.clone(),
            connected: status.streams > 0,
            connect_time: status.connected_since.map(Into::into),
            disconnect_time: status.disconnected_at.filter(|_| status.streams == 0).map(Into::into),
            types,
            revision: status.revision.unwrap_or(0),
        }
    }
}

fn labels(status: &NodeStatus) -> BTreeMap<String, String> {
    let info = &status.info;
    let mut labels: BTreeMap<String, String> =
        info.metadata.fields.keys().filter_map(|key| Some((key.clone(), info.label(key)?.to_owned()))).collect();
    let place = &info.locality;
    for (key, value) in [("region", &place.region), ("zone", &place.zone), ("sub_zone", &place.sub_zone)] {
        if !value.is_empty() {
            labels.insert(key.to_owned(), value.clone());
        }
    }
    labels
}

fn type_status(kind: ResourceKind, status: &KindStatus, revision: u64, resources: usize) -> pb::TypeStatus {
    let age = status.acked_at.and_then(|at| SystemTime::now().duration_since(at).ok());
    let text = |version: Option<Version>| version.map(|v| v.to_string()).unwrap_or_default();
    pb::TypeStatus {
        type_url: kind.type_url().to_owned(),
        status: sync(status).into(),
        version_sent: text(status.sent),
        version_acked: text(status.acked),
        revision,
        last_ack_time: status.acked_at.map(Into::into),
        last_ack_age: age.and_then(|age| age.try_into().ok()),
        error: status.refusal.as_ref().map(|r| r.message.clone()).unwrap_or_default(),
        resources: u32::try_from(resources).unwrap_or(u32::MAX),
    }
}

fn sync(status: &KindStatus) -> pb::SyncStatus {
    match status.status() {
        ConfigStatus::NotSent => pb::SyncStatus::NotSent,
        ConfigStatus::Synced => pb::SyncStatus::Synced,
        ConfigStatus::Stale => pb::SyncStatus::Stale,
        ConfigStatus::Error => pb::SyncStatus::Error,
    }
}

/// A node without what changes by itself, to see whether anything happened.
pub(crate) fn without_age(node: &pb::Node) -> pb::Node {
    let mut node = node.clone();
    node.types.iter_mut().for_each(|t| t.last_ack_age = None);
    node
}
