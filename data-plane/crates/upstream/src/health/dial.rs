//! The connection of a health check: where it goes, and what is kept of it for the next check.

use std::net::SocketAddr;
use std::sync::Arc;

use dp_http::info::Address;
use shared_config::health_check::HealthCheck;

use super::status::{Failure, FailureKind};
use crate::cluster::{Cluster, address};
use crate::endpoint::Endpoint;
use crate::pool::connect::{Made, Target, Wanted, establish};

/// What one check is made of.
#[derive(Clone)]
pub(super) struct Subject {
    pub cluster: Arc<Cluster>,
    pub endpoint: Arc<Endpoint>,
    pub check: Arc<HealthCheck>,
}

impl Subject {
    /// Connects; the caller has the deadline.
    pub(super) async fn connect(&self, wanted: Wanted) -> Result<Made, Failure> {
        let alpn = self.alpn();
        let at = check_address(&self.endpoint, self.check.alt_port);
        let target = Target { address: &at, offer: alpn.as_ref(), proxied: None, shard: 0 };
        let made = establish(&self.cluster, &self.endpoint, target, wanted, None).await;
        made.map_err(|error| {
            tracing::debug!(cluster = %self.cluster.name(), address = %at, %error, "a health check cannot connect");
            Failure::network()
        })
    }

    /// The cluster's TLS with the ALPN list of the check, if it has one.
    fn alpn(&self) -> Option<Arc<rustls::ClientConfig>> {
        let tls = self.cluster.tls.as_ref().filter(|_| !self.check.alpn.is_empty())?;
        let mut config = rustls::ClientConfig::clone(&tls.config);
        config.alpn_protocols = self.check.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
        Some(Arc::new(config))
    }

    /// The host to name in a request: the endpoint's for checks, what the check says, or the cluster's name.
    pub(super) fn host<'a>(&'a self, configured: &'a str) -> &'a str {
        let own = &*self.endpoint.health_check.hostname;
        [own, configured].into_iter().find(|host| !host.is_empty()).unwrap_or(self.cluster.name())
    }
}

impl Failure {
    pub(super) const fn network() -> Self {
        Self { kind: FailureKind::Network, retriable: false, immediate: false }
    }

    /// The endpoint answered, and not as it should.
    pub(super) const fn answered(retriable: bool, immediate: bool) -> Self {
        Self { kind: FailureKind::Active, retriable, immediate }
    }
}

/// Where an endpoint is checked: at its address for checks or that of its traffic, on its port for checks, or that of
/// the health check, or its own.
fn check_address(endpoint: &Endpoint, alt_port: Option<u16>) -> Address {
    let own = endpoint.health_check.address.as_ref().and_then(address);
    let port = endpoint.health_check.port.or(alt_port.filter(|_| own.is_none()));
    match (own.unwrap_or_else(|| endpoint.address.clone()), port) {
        (Address::Ip(ip), Some(port)) => Address::Ip(SocketAddr::new(ip.ip(), port)),
        (address, _) => address,
    }
}

#[cfg(test)]
mod tests {
    use shared_config::core::Address as ConfigAddress;
    use shared_config::endpoint::{Assignment, EndpointHealthCheck};

    use super::*;
    use crate::cluster::tests::{cluster, config, endpoints};

    #[track_caller]
    fn check(own: EndpointHealthCheck, alt_port: Option<u16>, wanted: &str) {
        let mut endpoints = endpoints(1);
        endpoints[0].health_check = own;
        let cluster = cluster(config(|_| {}), &Assignment::of(endpoints));
        assert_eq!(check_address(cluster.endpoints().next().unwrap(), alt_port).to_string(), wanted);
    }

    #[test]
    fn an_endpoint_is_checked_where_it_says() {
        let own = |port, address: Option<&str>| EndpointHealthCheck {
            port,
            address: address.map(|a| ConfigAddress::Ip(a.parse().unwrap())),
            ..EndpointHealthCheck::default()
        };
        check(own(None, None), None, "10.0.0.1:80");
        check(own(None, None), Some(81), "10.0.0.1:81");
        check(own(Some(82), None), Some(81), "10.0.0.1:82");
        check(own(None, Some("10.9.9.9:90")), Some(81), "10.9.9.9:90");
        check(own(Some(82), Some("10.9.9.9:90")), None, "10.9.9.9:82");
    }
}
