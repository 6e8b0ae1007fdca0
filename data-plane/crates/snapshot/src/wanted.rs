//! The names that resources refer to: what has to be fetched before they can serve.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use shared_config::cluster::{Cluster, Discovery};
use shared_config::core::{ConfigSource, Source};
use shared_config::hcm::RouteSource;
use shared_config::http_filter::FilterSource;
use shared_config::listener::{Listener, Terminal};
use shared_config::resource::Resource;
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

    /// Whether something is to be read from a file.
    pub fn has_files(&self) -> bool {
        let is_file = |source: &ConfigSource| matches!(source.source, Source::File { .. });
        self.names.values().flat_map(BTreeMap::values).any(is_file)
    }

    /// A name that `other` takes from elsewhere: a resource of one kind and name has one source.
    pub fn conflict(&self, other: &Self) -> Option<(Kind, &str)> {
        self.names.iter().find_map(|(kind, names)| {
            let others = other.names.get(kind)?;
            let differs =
                |name: &str, source: &ConfigSource| others.get(name).is_some_and(|o| o.source != source.source);
            let (name, _) = names.iter().find(|(name, source)| differs(name, source))?;
            Some((*kind, name.as_str()))
        })
    }

    fn add(&mut self, kind: Kind, name: &str, source: &ConfigSource) {
        self.names.entry(kind).or_default().insert(name.to_owned(), source.clone());
    }
}

/// What these resources refer to, leaving out those of which `skip` says so.
pub(crate) fn of(resources: &Resources, skip: impl Fn(Kind, &str) -> bool) -> Wanted {
    let mut wanted = Wanted::default();
    for (_, cluster) in resources.clusters.iter().filter(|(name, _)| !skip(Kind::Cluster, name)) {
        of_cluster(cluster, &mut wanted);
    }
    for (_, listener) in resources.listeners.iter().filter(|(name, _)| !skip(Kind::Listener, name)) {
        of_listener(listener, &mut wanted);
    }
    wanted
}

/// What this resource refers to.
pub fn references(resource: &Resource) -> Wanted {
    let mut wanted = Wanted::default();
    match resource {
        Resource::Cluster(cluster) => of_cluster(cluster, &mut wanted),
        Resource::Listener(listener) => of_listener(listener, &mut wanted),
        Resource::Endpoints(_) | Resource::Routes(_) | Resource::Secret(_) | Resource::Extension(_) => {}
    }
    wanted
}

fn of_cluster(cluster: &Cluster, wanted: &mut Wanted) {
    if let Discovery::Eds(eds) = &cluster.discovery {
        wanted.add(Kind::Endpoints, &eds.service, &eds.source);
    }
    if let Some(tls) = &cluster.tls {
        secrets(&tls.common, wanted);
    }
}

fn of_listener(listener: &Listener, wanted: &mut Wanted) {
    for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
        if let Some(tls) = &chain.tls {
            secrets(&tls.common, wanted);
            if let Some(reference) = ticket_secret(tls) {
                secret(reference, wanted);
            }
        }
        let Terminal::Http(hcm) = &chain.terminal else { continue };
        if let RouteSource::Rds { name, source } = &hcm.routes {
            wanted.add(Kind::Routes, name, source);
        }
        for filter in &hcm.http_filters {
            if let FilterSource::Discovery(discovery) = &filter.source {
                wanted.add(Kind::Filter, &filter.name, &discovery.source);
            }
        }
    }
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
