//! Endpoints of a cluster: where requests can go, in which order of preference and with which weight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use proto::envoy::config::core::v3 as pb;
use proto::envoy::config::endpoint::v3 as wire;

use crate::core::{Address, Fraction, Metadata, address, fraction, metadata};
use crate::invalid::{Invalid, Problems};
use crate::proxy_protocol;

/// The endpoints of one cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Assignment {
    pub cluster: String,
    pub localities: Vec<LocalityEndpoints>,
    /// Percent: how much of a priority level may be unhealthy before traffic spills over (140 means up to 28 %).
    pub overprovisioning: u32,
    /// A level's health is the share of its weight, not of its endpoints, that is healthy.
    pub weighted_priority_health: bool,
    pub drop: Option<DropOverload>,
    /// Endpoints that are not confirmed for this long count as gone.
    pub stale_after: Option<std::time::Duration>,
}

/// A share of requests that is answered 503 at once.
#[derive(Debug, Clone, PartialEq)]
pub struct DropOverload {
    pub category: String,
    pub share: Fraction,
}

/// The endpoints of one locality at one priority.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LocalityEndpoints {
    pub locality: Arc<Locality>,
    /// `None` takes no traffic when localities are weighted.
    pub weight: Option<u32>,
    /// 0 is tried first.
    pub priority: u32,
    pub endpoints: Vec<Endpoint>,
    pub metadata: Arc<Metadata>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub address: Address,
    /// Further addresses of the same endpoint; whichever answers first is used.
    pub additional: Vec<Address>,
    /// For `auto_host_rewrite`, hashing by host name and health checks; empty when not given.
    pub hostname: String,
    /// Names the endpoint in statistics; empty when not given.
    pub observability_name: String,
    pub health: HealthStatus,
    /// At least 1.
    pub weight: u32,
    pub metadata: Arc<Metadata>,
    pub health_check: EndpointHealthCheck,
}

/// What service discovery says about an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthStatus {
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
    Draining,
    Timeout,
    Degraded,
}

/// How active health checks reach one endpoint.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EndpointHealthCheck {
    /// Another port than the one for traffic.
    pub port: Option<u16>,
    pub address: Option<Address>,
    /// The host name that checks send; empty takes the endpoint's.
    pub hostname: String,
    pub disabled: bool,
}

// === impl Locality, HealthStatus ===

impl Locality {
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.sub_zone.is_empty()
    }

    pub(crate) fn decode(proto: Option<&pb::Locality>) -> Self {
        proto.map_or_else(Self::default, |l| Self {
            region: l.region.clone(),
            zone: l.zone.clone(),
            sub_zone: l.sub_zone.clone(),
        })
    }
}

impl HealthStatus {
    pub(crate) fn decode(proto: i32) -> Option<Self> {
        Some(match pb::HealthStatus::try_from(proto).ok()? {
            pb::HealthStatus::Unknown => Self::Unknown,
            pb::HealthStatus::Healthy => Self::Healthy,
            pb::HealthStatus::Unhealthy => Self::Unhealthy,
            pb::HealthStatus::Draining => Self::Draining,
            pb::HealthStatus::Timeout => Self::Timeout,
            pb::HealthStatus::Degraded => Self::Degraded,
        })
    }

    /// As `/clusters` writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Healthy => "HEALTHY",
            Self::Unhealthy => "UNHEALTHY",
            Self::Draining => "DRAINING",
            Self::Timeout => "TIMEOUT",
            Self::Degraded => "DEGRADED",
        }
    }
}

// === decode ===

/// Decodes an EDS resource: every address is an IP address or a unix socket.
///
/// # Errors
/// Every problem of the resource.
pub fn decode(bytes: &[u8]) -> Result<Assignment, Invalid> {
    let mut p = Problems::default();
    let proto = match wire::ClusterLoadAssignment::decode(bytes) {
        Ok(proto) => proto,
        Err(error) => {
            p.refuse(error);
            return p.finish(None);
        }
    };
    let assignment = decode_resource(&proto, &mut p);
    p.finish(assignment)
}

/// Decodes an EDS resource that is a message already.
pub(crate) fn decode_resource(proto: &wire::ClusterLoadAssignment, p: &mut Problems) -> Option<Assignment> {
    if proto.cluster_name.is_empty() {
        return p.refuse_at("cluster_name", "is empty");
    }
    let assignment = Assignment::decode(proto, Names::Refused, p);
    Some(assignment)
}

/// Whether endpoints may be host names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    Resolved,
    Refused,
}

/// Envoy's default overprovisioning factor.
const OVERPROVISIONING: u32 = 140;

impl Assignment {
    /// Endpoints of one nameless locality, with Envoy's defaults.
    pub fn of(endpoints: Vec<Endpoint>) -> Self {
        let locality = LocalityEndpoints { endpoints, ..LocalityEndpoints::default() };
        Self { localities: vec![locality], overprovisioning: OVERPROVISIONING, ..Self::default() }
    }

    pub(crate) fn decode(proto: &wire::ClusterLoadAssignment, names: Names, p: &mut Problems) -> Self {
        let named: &BTreeMap<String, wire::Endpoint> = &proto.named_endpoints;
        let localities = p.each("endpoints", &proto.endpoints, |p, l| LocalityEndpoints::decode(l, named, names, p));
        check_localities(&localities, p);
        let mut assignment = Self {
            cluster: proto.cluster_name.clone(),
            localities,
            overprovisioning: OVERPROVISIONING,
            ..Self::default()
        };
        if let Some(policy) = &proto.policy {
            p.at("policy", |p| assignment.policy(policy, p));
        }
        assignment
    }

    fn policy(&mut self, proto: &wire::cluster_load_assignment::Policy, p: &mut Problems) {
        match proto.overprovisioning_factor {
            Some(0) => p.at("overprovisioning_factor", |p| p.refuse("must be more than 0")),
            Some(factor) => self.overprovisioning = factor,
            None => {}
        }
        self.weighted_priority_health = proto.weighted_priority_health;
        self.stale_after =
            crate::cluster::wire::positive("endpoint_stale_after", proto.endpoint_stale_after.as_ref(), p);
        if proto.drop_overloads.len() > 1 {
            p.at("drop_overloads", |p| p.refuse("only one category is supported"));
        }
        self.drop = p.each("drop_overloads", &proto.drop_overloads, DropOverload::decode).pop();
    }

    /// All endpoints, whatever their locality.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }
}

impl DropOverload {
    fn decode(p: &mut Problems, proto: &wire::cluster_load_assignment::policy::DropOverload) -> Option<Self> {
        if proto.category.is_empty() {
            return p.refuse_at("category", "is empty");
        }
        let percent = proto.drop_percentage.unwrap_or_default();
        let share = p.at("drop_percentage", |p| fraction(&percent, p))?;
        Some(Self { category: proto.category.clone(), share })
    }
}

/// Refuses what would make weights or localities ambiguous.
fn check_localities(localities: &[LocalityEndpoints], p: &mut Problems) {
    let mut seen = BTreeSet::new();
    let mut sums = BTreeMap::<u32, u64>::new();
    for (i, locality) in localities.iter().enumerate() {
        if !seen.insert((locality.priority, &locality.locality)) {
            p.at("endpoints", |p| p.index(i, |p| p.refuse("this locality was already given for this priority")));
        }
        *sums.entry(locality.priority).or_default() += u64::from(locality.weight.unwrap_or(0));
        let endpoints: u64 = locality.endpoints.iter().map(|e| u64::from(e.weight)).sum();
        if endpoints > u64::from(u32::MAX) {
            p.at("endpoints", |p| p.index(i, |p| p.refuse("the weights of its endpoints add up to more than 2^32-1")));
        }
    }
    if sums.values().any(|sum| *sum > u64::from(u32::MAX)) {
        p.at("endpoints", |p| p.refuse("the locality weights of a priority add up to more than 2^32-1"));
    }
}

impl LocalityEndpoints {
    fn decode(
        proto: &wire::LocalityLbEndpoints,
        named: &BTreeMap<String, wire::Endpoint>,
        names: Names,
        p: &mut Problems,
    ) -> Option<Self> {
        crate::refuse_set!(p, proto; proximity);
        p.unimplemented_if("leds_cluster_locality_config", proto.lb_config.is_some());
        if proto.priority > 128 {
            return p.refuse_at("priority", "must be at most 128");
        }
        Some(Self {
            locality: Arc::new(Locality::decode(proto.locality.as_ref())),
            weight: proto.load_balancing_weight,
            priority: proto.priority,
            endpoints: p.each("lb_endpoints", &proto.lb_endpoints, |p, e| Endpoint::decode(e, named, names, p)),
            metadata: Arc::new(metadata(proto.metadata.as_ref())),
        })
    }
}

impl Endpoint {
    /// An endpoint of weight 1 that nobody called unhealthy.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            additional: Vec::new(),
            hostname: String::new(),
            observability_name: String::new(),
            health: HealthStatus::Unknown,
            weight: 1,
            metadata: Arc::default(),
            health_check: EndpointHealthCheck::default(),
        }
    }

    fn decode(
        proto: &wire::LbEndpoint,
        named: &BTreeMap<String, wire::Endpoint>,
        names: Names,
        p: &mut Problems,
    ) -> Option<Self> {
        use wire::lb_endpoint::HostIdentifier;
        if proto.load_balancing_weight == Some(0) {
            p.refuse_at::<()>("load_balancing_weight", "must be at least 1");
        }
        let health = HealthStatus::decode(proto.health_status);
        if health.is_none() {
            p.refuse_at::<()>("health_status", "unknown value");
        }
        let (field, endpoint) = match &proto.host_identifier {
            Some(HostIdentifier::Endpoint(endpoint)) => ("endpoint", endpoint),
            Some(HostIdentifier::EndpointName(name)) => match named.get(name) {
                Some(endpoint) => ("endpoint_name", endpoint),
                None => return p.refuse_at("endpoint_name", format!("named_endpoints has no {name:?}")),
            },
            None => return p.refuse_at("endpoint", "is not set"),
        };
        let metadata = metadata(proto.metadata.as_ref());
        p.at("metadata", |p| proxy_protocol::of_endpoint(&metadata, p));
        p.at(field, |p| {
            let address = p.at("address", |p| endpoint_address(endpoint.address.as_ref(), names, p))?;
            let additional = p.each("additional_addresses", &endpoint.additional_addresses, |p, additional| {
                p.at("address", |p| endpoint_address(additional.address.as_ref(), Names::Refused, p))
            });
            Some(Self {
                address,
                additional,
                hostname: endpoint.hostname.clone(),
                observability_name: endpoint.observability_name.clone(),
                health: health?,
                weight: proto.load_balancing_weight.unwrap_or(1),
                metadata: Arc::new(metadata),
                health_check: EndpointHealthCheck::decode(endpoint.health_check_config.as_ref(), p)?,
            })
        })
    }
}

fn endpoint_address(proto: Option<&pb::Address>, names: Names, p: &mut Problems) -> Option<Address> {
    let address = address(proto, p)?;
    match (&address, names) {
        (Address::Name { host, .. }, Names::Refused) => {
            p.refuse(format!("{host:?} is not an IP address; a cluster of type STRICT_DNS or LOGICAL_DNS takes names"));
            None
        }
        (Address::Pipe { .. }, Names::Resolved) => {
            p.refuse("a DNS cluster takes host names or IP addresses, not unix sockets");
            None
        }
        _ => Some(address),
    }
}

impl EndpointHealthCheck {
    fn decode(proto: Option<&wire::endpoint::HealthCheckConfig>, p: &mut Problems) -> Option<Self> {
        let Some(proto) = proto else { return Some(Self::default()) };
        p.at("health_check_config", |p| {
            let Ok(port) = u16::try_from(proto.port_value) else {
                return p.refuse_at("port_value", "must be at most 65535");
            };
            let address = match &proto.address {
                Some(a) => Some(p.at("address", |p| endpoint_address(Some(a), Names::Refused, p))?),
                None => None,
            };
            Some(Self {
                port: (port != 0).then_some(port),
                address,
                hostname: proto.hostname.clone(),
                disabled: proto.disable_active_health_check,
            })
        })
    }
}

#[cfg(test)]
mod tests;
