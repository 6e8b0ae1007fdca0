//! Compiles a cluster: its TLS, its endpoints, the tables to pick from.

use std::borrow::Cow;
use std::sync::Arc;

use dp_net::tls::TlsStats;
use dp_observe::access_log::writer::Place;
use dp_upstream::cluster::Tls;
use dp_upstream::{Cluster, Site};
use shared_config::cluster::Discovery;
use shared_config::endpoint::Assignment;
use shared_telemetry::Scope;

use super::{ClusterInputs, Environment, Refusal, tls};

/// Compiles one cluster; what `previous` has and did not change is kept: endpoints, pools, breakers.
pub(crate) fn cluster(
    inputs: &ClusterInputs,
    previous: Option<&Arc<Cluster>>,
    environment: &mut Environment,
) -> Result<Cluster, Refusal> {
    let config = &inputs.config;
    let assignment: Cow<'_, Assignment> = match &config.discovery {
        Discovery::Static(assignment) => Cow::Borrowed(assignment),
        // A cluster whose endpoints nobody knows has none: requests to it are answered 503.
        Discovery::Eds(_) => inputs.endpoints.as_deref().map_or_else(Cow::default, Cow::Borrowed),
        discovery if discovery.is_dns() => inputs.resolved.as_deref().map_or_else(Cow::default, Cow::Borrowed),
        _ => Cow::default(),
    };
    for path in config.health_check.iter().flat_map(|check| &check.event_logs) {
        let opened = environment.logs.open(&Place::File(path.into()));
        opened.map_err(|error| Refusal(format!("{path}: {error}")).at("health_checks[0]: event log"))?;
    }
    let tls = match &config.tls {
        None => None,
        Some(context) => {
            let client = tls::client(context, &config.http, &inputs.secrets, &mut environment.files);
            let client = client.map_err(|refusal| refusal.at("transport_socket"))?;
            let stats = TlsStats::register(&environment.registry, Scope::cluster(&config.stat_name).child("ssl"));
            Some(Tls::new(client, (context.sni.clone(), context.auto_host_sni), tls::describe, stats))
        }
    };
    let site = Site {
        registry: environment.registry.clone(),
        workers: environment.workers,
        bell: environment.bell.clone(),
        local: environment.local.clone(),
        events: environment.outlier_events.clone(),
    };
    let cluster = Cluster::compile(Arc::clone(config), &assignment, tls, previous.map(|previous| &**previous), &site);
    Ok(match &config.discovery {
        Discovery::Aggregate(_) => cluster.of_members(members(inputs)?),
        Discovery::ForwardProxy(forward) => cluster.by_names(environment.names.cache(&forward.cache)?),
        _ => cluster,
    })
}

/// The members of an aggregate, if they can be members.
fn members(inputs: &ClusterInputs) -> Result<&[Arc<Cluster>], Refusal> {
    if inputs.members.is_loop {
        return Err(Refusal("the aggregate is, through its members, a member of itself".into()));
    }
    if inputs.members.is_too_deep {
        return Err(Refusal(format!("its members hold aggregates more than {} deep", super::members::DEEPEST)));
    }
    let provides = |member: &&Arc<Cluster>| {
        !matches!(member.config.discovery, Discovery::Aggregate(_)) && member.config.discovery.provides_balancing()
    };
    match inputs.members.serving.iter().find(provides) {
        Some(member) => Err(Refusal(format!("{} cannot be a member: its endpoints come by request", member.name()))),
        None => Ok(&inputs.members.serving),
    }
}
