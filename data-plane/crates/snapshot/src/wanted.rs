//! The names that resources refer to: what has to be fetched before they can serve.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use shared_config::cluster::Discovery;
use shared_config::core::{ConfigSource, Source};
use shared_config::hcm::RouteSource;
use shared_config::http_filter::FilterSource;
use shared_config::listener::Terminal;
use shared_config::tls::{CommonTls, DownstreamTls, SecretReference, SessionTickets, Validation};

use crate::resources::{Kind, Resources};

/// Names by kind, each with where it comes from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    pub names: BTreeMap<Kind, BTreeMap<String, ConfigSource>>,
}

impl Wanted {
    pub fn has(&self, kind: Kind, name: &str) -> bool {
        self.names.get(&kind).is_some_and(|names| names.contains_key(name))
    }

    fn add(&mut self, kind: Kind, name: &str, source: &ConfigSource) {
        self.names.entry(kind).or_default().insert(name.to_owned(), source.clone());
    }
}

/// What these resources refer to.
pub(crate) fn of(resources: &Resources) -> Wanted {
    let mut wanted = Wanted::default();
    for (_, cluster) in resources.clusters.iter() {
        if let Discovery::Eds(eds) = &cluster.discovery {
            wanted.add(Kind::Endpoints, &eds.service, &eds.source);
        }
        if let Some(tls) = &cluster.tls {
            secrets(&tls.common, &mut wanted);
        }
    }
    for (_, listener) in resources.listeners.iter() {
        for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
            if let Some(tls) = &chain.tls {
                secrets(&tls.common, &mut wanted);
                if let Some(reference) = ticket_secret(tls) {
                    secret(reference, &mut wanted);
                }
            }
            let Terminal::Http(hcm) = &chain.terminal else { continue };
            if let RouteSource::Rds { name, source } = &hcm.routes {
                wanted.add(Kind::Routes, name, source);
            }
            for filter in &hcm.http_filters {
                if let FilterSource::Discovery(_) = &filter.source {
                    wanted.add(Kind::Filter, &filter.name, &ads());
                }
            }
        }
    }
    wanted
}

/// Filters are discovered by the aggregated stream only; the decoder refuses anything else.
fn ads() -> ConfigSource {
    ConfigSource { source: Source::Ads, initial_fetch_timeout: None }
}

fn secrets(tls: &CommonTls, wanted: &mut Wanted) {
    for reference in secret_references(tls) {
        secret(reference, wanted);
    }
}

fn secret(reference: &SecretReference, wanted: &mut Wanted) {
    if let Some(source) = &reference.source {
        wanted.add(Kind::Secret, &reference.name, source);
    }
}

/// The secrets that a TLS context names.
pub(crate) fn secret_references(tls: &CommonTls) -> impl Iterator<Item = &SecretReference> {
    let validation = match &tls.validation {
        Validation::Secret(reference) | Validation::Combined { secret: reference, .. } => Some(reference),
        Validation::None | Validation::Inline(_) => None,
    };
    tls.certificate_secrets.iter().chain(validation)
}

/// The secret with the keys of session tickets.
pub(crate) fn ticket_secret(tls: &DownstreamTls) -> Option<&SecretReference> {
    match &tls.tickets {
        SessionTickets::Secret(reference) => Some(reference),
        SessionTickets::Generated | SessionTickets::Keys(_) | SessionTickets::Disabled => None,
    }
}

/// The names of secrets, for a part that needs all of them.
pub(crate) fn secret_names(tls: &CommonTls) -> BTreeSet<String> {
    secret_references(tls).map(|reference| reference.name.clone()).collect()
}
