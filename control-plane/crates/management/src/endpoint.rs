//! The endpoints of clusters: what the configuration says, what operators drained, and how each node sees them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use cp_fleet::{Class, EndpointReport, address_text};
use cp_model::Kind;
use cp_pipeline::drain::time;
use cp_pipeline::{Author, Drained, Drains, Refused, ResourceKind};
use proto::envoy::config::core::v3::{HealthStatus, Locality};
use proto::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier};
use proto::weir::management::v1 as pb;

use crate::auth::Caller;
use crate::failure::{Failure, short};
use crate::fleet::FleetCore;

const MAX_MESSAGE: usize = 1024;

type Key = (String, String);

impl FleetCore {
    pub(crate) async fn endpoints(&self, r: &pb::ListEndpointsRequest) -> Result<pb::ListEndpointsResponse, Failure> {
        let drains = self.pipeline.drains().await?;
        let endpoints = self.all(&r.cluster, &drains);
        if endpoints.is_empty() && !r.cluster.is_empty() {
            self.cluster_exists(&r.cluster).await?;
        }
        Ok(pb::ListEndpointsResponse { endpoints })
    }

    pub(crate) async fn drain(
        &self,
        caller: &Caller,
        r: pb::DrainEndpointRequest,
    ) -> Result<pb::DrainEndpointResponse, Failure> {
        if r.message.len() > MAX_MESSAGE {
            return Err(Failure::request("message", format!("is longer than {MAX_MESSAGE} bytes")));
        }
        let time = match r.duration {
            None => None,
            Some(time) => match Duration::try_from(time) {
                Ok(time) if !time.is_zero() => Some(time),
                _ => return Err(Failure::request("duration", "must be more than nothing")),
            },
        };
        let author = Author(caller.name.clone());
        let outcome = self.pipeline.drain(&author, &r.cluster, &r.address, time, &r.message).await;
        audit(caller, "drain", &r.cluster, &r.address, outcome.as_ref().err());
        let drained = outcome?;
        Ok(pb::DrainEndpointResponse { endpoint: Some(self.one(&drained).await?) })
    }

    pub(crate) async fn undrain(
        &self,
        caller: &Caller,
        r: pb::UndrainEndpointRequest,
    ) -> Result<pb::UndrainEndpointResponse, Failure> {
        let outcome = self.pipeline.undrain(&r.cluster, &r.address).await;
        audit(caller, "undrain", &r.cluster, &r.address, outcome.as_ref().err());
        Ok(pb::UndrainEndpointResponse { endpoint: Some(self.one(&outcome?).await?) })
    }

    /// One without endpoints is not one that is not there.
    async fn cluster_exists(&self, name: &str) -> Result<(), Failure> {
        let draft = self.pipeline.state(0).await?.draft;
        let is_it = |o: &cp_model::Object| match o.kind {
            Kind::Cluster => o.name == name,
            Kind::Envoy => o.name.strip_prefix("Cluster/") == Some(name),
            _ => false,
        };
        match draft.objects.iter().any(is_it) {
            true => Ok(()),
            false => Err(Refused::no_object(&draft, Kind::Cluster, name).into()),
        }
    }

    async fn one(&self, of: &Drained) -> Result<pb::Endpoint, Failure> {
        let all = self.all(&of.cluster, &self.pipeline.drains().await?);
        let found = all.into_iter().find(|e| e.address == of.address);
        // It may be gone from the configuration, and can be brought back all the same.
        Ok(found.unwrap_or_else(|| pb::Endpoint {
            cluster: of.cluster.clone(),
            address: of.address.clone(),
            ..Default::default()
        }))
    }

    fn all(&self, cluster: &str, drains: &Drains) -> Vec<pb::Endpoint> {
        let mut found: BTreeMap<Key, pb::Endpoint> = BTreeMap::new();
        let wanted = |name: &str| cluster.is_empty() || name == cluster;
        for group in self.pipeline.groups().names() {
            let Some(snapshot) = self.publisher.latest(group, Class::Weir) else { continue };
            for resource in snapshot.sets[ResourceKind::Endpoints].iter().filter(|r| wanted(&r.name)) {
                if let Some(Ok(assignment)) = resource.any.unpack::<ClusterLoadAssignment>() {
                    configured(&assignment, &mut found);
                }
            }
        }
        for node in self.fleet.nodes() {
            let Some(load) = &node.load else { continue };
            for report in load.endpoints.iter().filter(|e| wanted(&e.cluster)) {
                let endpoint = entry(&mut found, &report.cluster, &report.address);
                if endpoint.weight == 0 {
                    // Only nodes know it: from DNS, or from a stream of their own.
                    endpoint.weight = report.weight.unwrap_or(1);
                    endpoint.priority = report.priority;
                    placed(endpoint, report.region.clone(), report.zone.clone());
                }
                endpoint.nodes.push(on_node(&node.info.id, load.at, report));
            }
        }
        for drained in drains.0.iter().filter(|d| wanted(&d.cluster)) {
            if let Some(endpoint) = found.get_mut(&(drained.cluster.clone(), drained.address.clone())) {
                endpoint.drain = Some(pb::Drain {
                    author: drained.author.clone(),
                    create_time: Some(time(drained.since).into()),
                    expire_time: drained.until.map(|until| time(until).into()),
                    message: drained.message.clone(),
                });
            }
        }
        found.into_values().map(summed).collect()
    }
}

fn audit(caller: &Caller, what: &str, cluster: &str, address: &str, refused: Option<&Refused>) {
    let (cluster, address) = (short(cluster), short(address));
    match refused {
        None => {
            tracing::info!(target: "audit", caller = caller.name, role = %caller.role, what, cluster, address, "accepted");
        }
        Some(refused) => {
            let refused = short(&refused.to_string());
            tracing::warn!(target: "audit", caller = caller.name, role = %caller.role, what, cluster, address, refused, "refused");
        }
    }
}

fn entry<'f>(found: &'f mut BTreeMap<Key, pb::Endpoint>, cluster: &str, address: &str) -> &'f mut pb::Endpoint {
    found.entry((cluster.to_owned(), address.to_owned())).or_insert_with(|| pb::Endpoint {
        cluster: cluster.to_owned(),
        address: address.to_owned(),
        ..Default::default()
    })
}

fn placed(endpoint: &mut pb::Endpoint, region: String, zone: String) {
    (endpoint.region, endpoint.zone) = (region, zone);
}

fn configured(assignment: &ClusterLoadAssignment, found: &mut BTreeMap<Key, pb::Endpoint>) {
    for locality in &assignment.endpoints {
        for lb_endpoint in &locality.lb_endpoints {
            let Some(HostIdentifier::Endpoint(host)) = &lb_endpoint.host_identifier else { continue };
            let Some(address) = host.address.as_ref().and_then(address_text) else { continue };
            let endpoint = entry(found, &assignment.cluster_name, &address);
            endpoint.weight = lb_endpoint.load_balancing_weight.unwrap_or(1);
            endpoint.priority = locality.priority;
            let Locality { region, zone, .. } = locality.locality.clone().unwrap_or_default();
            placed(endpoint, region, zone);
            endpoint.labels = labels(lb_endpoint);
            if lb_endpoint.health_status == HealthStatus::Draining as i32 {
                endpoint.health = pb::EndpointHealth::Draining.into();
            }
        }
    }
}

fn labels(endpoint: &LbEndpoint) -> BTreeMap<String, String> {
    let fields = endpoint.metadata.as_ref().and_then(|m| m.filter_metadata.get("envoy.lb")).map(|s| &s.fields);
    let text = |(name, value): (&String, &prost_types::Value)| match &value.kind {
        Some(prost_types::value::Kind::StringValue(text)) => Some((name.clone(), text.clone())),
        _ => None,
    };
    fields.into_iter().flatten().filter_map(text).collect()
}

fn on_node(node: &str, at: SystemTime, report: &EndpointReport) -> pb::EndpointOnNode {
    use pb::EndpointHealth::{Degraded, Draining, Healthy, Unhealthy, Unspecified};
    let health = match report.health.as_str() {
        "healthy" => Healthy,
        "degraded" => Degraded,
        "draining" => Draining,
        "unhealthy" => Unhealthy,
        _ => Unspecified,
    };
    pb::EndpointOnNode {
        node: node.to_owned(),
        health: health.into(),
        reasons: report.reasons.clone(),
        active_requests: report.active,
        requests: report.requests,
        errors: report.errors,
        latency: report.latency.and_then(|latency| latency.try_into().ok()),
        weight: report.weight.unwrap_or_default(),
        report_time: Some(at.into()),
        report_age: SystemTime::now().duration_since(at).ok().and_then(|age| age.try_into().ok()),
    }
}

/// With the worst that anyone says of it.
fn summed(mut endpoint: pb::Endpoint) -> pb::Endpoint {
    endpoint.nodes.sort_by(|a, b| a.node.cmp(&b.node));
    let worst = endpoint.nodes.iter().map(|n| n.health).max().unwrap_or_default();
    endpoint.health = match endpoint.drain {
        Some(_) => pb::EndpointHealth::Draining.into(),
        None => endpoint.health.max(worst),
    };
    endpoint
}
