//! Endpoints that operators took out of service: kept beside the revisions, so that no apply brings them back unseen.
//!
//! Only what is published of endpoints changes; the configuration itself does not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cp_fleet::address_text;
use cp_model::Kind;
use cp_model::problem::did_you_mean;
use cp_store::StoreError;
use cp_translate::Resource;
use proto::Any;
use proto::envoy::config::core::v3::HealthStatus;
use proto::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use serde::{Deserialize, Serialize};

use crate::apply::{Author, Pipeline, Refused, compile, draft_of, now};

/// One endpoint that gets no new requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    pub cluster: String,
    /// `10.0.0.1:80`
    pub address: String,
    pub author: String,
    pub message: String,
    /// Milliseconds since 1970.
    pub since: u64,
    /// Comes back by itself then.
    pub until: Option<u64>,
}

/// All of them, as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drains(pub Vec<Drained>);

/// How often a change is tried again when another one was faster.
const TRIES: usize = 16;
/// More than anyone drains by hand, and a bound on what is kept.
const MOST: usize = 10_000;

impl Drains {
    fn decode(content: &[u8]) -> Result<Drains, StoreError> {
        match content {
            [] => Ok(Drains::default()),
            bytes => serde_json::from_slice(bytes).map_err(|e| StoreError::Failed(format!("drained endpoints: {e}"))),
        }
    }

    /// Those that still hold at `now`.
    fn at(mut self, now: u64) -> Drains {
        self.0.retain(|d| d.until.is_none_or(|until| until > now));
        self
    }

    fn of(&self, cluster: &str, address: &str) -> Option<&Drained> {
        self.0.iter().find(|d| d.cluster == cluster && d.address == address)
    }

    /// How long until the next one comes back.
    pub(crate) fn next_end(&self, now: u64) -> Option<Duration> {
        self.0.iter().filter_map(|d| d.until).min().map(|until| Duration::from_millis(until.saturating_sub(now)))
    }

    /// The resources with these endpoints draining.
    pub(crate) fn over(&self, resource: &Resource) -> Any {
        if self.0.iter().all(|d| d.cluster != resource.name) {
            return resource.any.clone();
        }
        let Some(Ok(mut assignment)) = resource.any.unpack::<ClusterLoadAssignment>() else {
            return resource.any.clone();
        };
        for endpoint in assignment.endpoints.iter_mut().flat_map(|l| &mut l.lb_endpoints) {
            let Some(HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else { continue };
            let drained = host.address.as_ref().and_then(address_text).and_then(|a| self.of(&resource.name, &a));
            if drained.is_some() {
                endpoint.health_status = HealthStatus::Draining.into();
            }
        }
        Any::pack(&assignment)
    }
}

impl Pipeline {
    /// What is drained now.
    pub async fn drains(&self) -> Result<Drains, Refused> {
        let beside = self.store.beside().await?;
        Ok(Drains::decode(&beside.content)?.at(now()))
    }

    /// Takes an endpoint out of service, or changes for how long. It must be one that endpoint discovery brings.
    pub async fn drain(
        &self,
        author: &Author,
        cluster: &str,
        address: &str,
        time: Option<Duration>,
        message: &str,
    ) -> Result<Drained, Refused> {
        self.endpoint_exists(cluster, address).await?;
        let since = now();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let drained = Drained {
            cluster: cluster.to_owned(),
            address: address.to_owned(),
            author: author.0.clone(),
            message: message.to_owned(),
            since,
            until: time.map(|time| since.saturating_add(millis(time))),
        };
        let put = drained.clone();
        self.change_drains(move |drains| {
            drains.0.retain(|d| (&d.cluster, &d.address) != (&put.cluster, &put.address));
            if drains.0.len() >= MOST {
                return Err(Refused::TooManyDrained(MOST));
            }
            drains.0.push(put.clone());
            Ok(())
        })
        .await?;
        Ok(drained)
    }

    /// Brings an endpoint back. It need not exist any more.
    pub async fn undrain(&self, cluster: &str, address: &str) -> Result<Drained, Refused> {
        let drains = self.drains().await?;
        let drained = drains.of(cluster, address).cloned().ok_or_else(|| {
            let others = drains.0.iter().filter(|d| d.cluster == cluster).map(|d| d.address.as_str());
            let hint = did_you_mean(address, others);
            Refused::NotDrained { cluster: cluster.to_owned(), address: address.to_owned(), hint }
        })?;
        self.change_drains(|drains| {
            drains.0.retain(|d| d.cluster != cluster || d.address != address);
            Ok(())
        })
        .await?;
        Ok(drained)
    }

    async fn change_drains(&self, change: impl Fn(&mut Drains) -> Result<(), Refused>) -> Result<(), Refused> {
        for _ in 0..TRIES {
            let beside = self.store.beside().await?;
            let mut drains = Drains::decode(&beside.content)?.at(now());
            change(&mut drains)?;
            let content = serde_json::to_vec(&drains).map_err(|e| StoreError::Failed(e.to_string()))?;
            match self.store.put_beside(beside.version, content).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => (),
                Err(other) => return Err(other.into()),
            }
        }
        Err(StoreError::Failed("others change the drained endpoints all the time".to_owned()).into())
    }

    async fn endpoint_exists(&self, cluster: &str, address: &str) -> Result<(), Refused> {
        let head = self.store.head().await?;
        let draft = draft_of(head.as_deref())?;
        let compiled = compile(&draft, &self.groups)?;
        if compiled.resources.iter().all(|r| r.name != cluster) {
            return Err(Refused::no_object(&draft, Kind::Cluster, cluster));
        }
        let mut resources = compiled.resources.iter().filter(|r| r.name == cluster);
        let Some(assignment) = resources.find_map(|r| r.any.unpack::<ClusterLoadAssignment>()?.ok()) else {
            return Err(Refused::NoEndpoints(cluster.to_owned()));
        };
        let known: Vec<String> = addresses(&assignment).collect();
        if known.iter().any(|a| a == address) {
            return Ok(());
        }
        let hint = match did_you_mean(address, known.iter().map(String::as_str)) {
            near if near.is_empty() => some_of(&known),
            near => near,
        };
        Err(Refused::NoEndpoint { cluster: cluster.to_owned(), address: address.to_owned(), hint })
    }
}

/// There may be thousands.
fn some_of(addresses: &[String]) -> String {
    const MOST: usize = 8;
    let more = addresses.len().saturating_sub(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match addresses {
        [] => "; it has none".to_owned(),
        _ => format!("; it has {}{more}", addresses[..addresses.len().min(MOST)].join(", ")),
    }
}

fn addresses(assignment: &ClusterLoadAssignment) -> impl Iterator<Item = String> {
    let endpoints = assignment.endpoints.iter().flat_map(|l| &l.lb_endpoints);
    endpoints.filter_map(|endpoint| match &endpoint.host_identifier {
        Some(HostIdentifier::Endpoint(host)) => host.address.as_ref().and_then(address_text),
        _ => None,
    })
}

/// A time as it is kept, for people.
pub fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}
