//! The endpoints of one version of a cluster, made from its configuration and from what was known of them before.
//!
//! Pure. Never decides which of them takes a request.

use std::sync::Arc;

use dp_http::info::Address;
use shared_config::cluster::HappyEyeballs;
use shared_config::core::{Address as ConfigAddress, Metadata, flatten_metadata};
use shared_config::endpoint::{Endpoint as EndpointConfig, LocalityEndpoints};

use crate::endpoint::{Endpoint, EndpointState, Health};

pub(super) fn endpoint(
    config: &EndpointConfig,
    locality: &LocalityEndpoints,
    (address, addresses): (Address, Box<[Address]>),
    state: Arc<EndpointState>,
    before: Option<&Arc<Endpoint>>,
    checked: bool,
) -> Arc<Endpoint> {
    let display = if config.observability_name.is_empty() {
        address.to_string().into()
    } else {
        config.observability_name.as_str().into()
    };
    let endpoint = Endpoint {
        vitals: state.vitals(),
        state,
        address,
        addresses,
        weight: config.weight.max(1),
        priority: locality.priority,
        locality: Arc::clone(&locality.locality),
        metadata: Arc::clone(&config.metadata),
        shown_metadata: shown(&config.metadata),
        discovery: config.health,
        health_check: config.health_check.clone(),
        checked,
        leaving: false,
        display,
    };
    if before.is_some_and(|before| before.health() == Health::Unhealthy) && endpoint.health() != Health::Unhealthy {
        endpoint.state.became_healthy();
    }
    Arc::new(endpoint)
}

/// All addresses of an endpoint in the order they are tried; none if it has only the one.
pub(super) fn addresses(config: &EndpointConfig, order: &HappyEyeballs) -> Box<[Address]> {
    if config.additional.is_empty() {
        return Box::default();
    }
    let all: Vec<&ConfigAddress> = std::iter::once(&config.address).chain(&config.additional).collect();
    order.order(&all).into_iter().filter_map(address).collect()
}

/// Metadata for formatters; `None` when there is none.
pub(super) fn shown(metadata: &Metadata) -> Option<Arc<dp_http::info::Metadata>> {
    (!metadata.is_empty()).then(|| Arc::new(flatten_metadata(metadata)))
}

/// An address to connect to; `None` for a name.
pub(crate) fn address(config: &ConfigAddress) -> Option<Address> {
    match config {
        ConfigAddress::Ip(address) => Some(Address::Ip(*address)),
        ConfigAddress::Pipe { path, .. } => Some(Address::Pipe(path.as_str().into())),
        ConfigAddress::Name { .. } => None,
    }
}
