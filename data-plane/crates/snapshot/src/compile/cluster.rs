//! Compiles a cluster: its TLS, its endpoints, the tables to pick from.

use std::borrow::Cow;
use std::sync::Arc;

use dp_upstream::cluster::Tls;
use dp_upstream::{Cluster, Site};
use shared_config::cluster::Discovery;
use shared_config::endpoint::Assignment;

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
        Discovery::StrictDns(..) | Discovery::LogicalDns(..) => {
            inputs.resolved.as_deref().map_or_else(Cow::default, Cow::Borrowed)
        }
    };
    let tls = match &config.tls {
        None => None,
        Some(context) => {
            let client = tls::client(context, config.http.auto_sni, &inputs.secrets, &mut environment.files);
            let client = client.map_err(|refusal| refusal.at("transport_socket"))?;
            Some(Tls::new(client, context.sni.clone(), context.auto_host_sni, tls::describe))
        }
    };
    let site = Site {
        registry: environment.registry.clone(),
        workers: environment.workers,
        bell: environment.bell.clone(),
        local: environment.local.clone(),
    };
    Ok(Cluster::compile(Arc::clone(config), &assignment, tls, previous.map(|previous| &**previous), &site))
}
