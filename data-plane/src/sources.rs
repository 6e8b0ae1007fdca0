//! Between the sources of configuration and the engine: resources decoded, refused by name, put in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use dp_ads::{
    Consumer, Event, FileSource, FileWanted, LastGoodOptions, NodeIdentity, Protocol, ResourceKind, Setup,
    StreamSource, Tls, Verdict,
};
use dp_snapshot::{Kind, Origin, Told};
use serde_json::Value;
use shared_config::bootstrap::Bootstrap;
use shared_config::cluster::Cluster;
use shared_config::core::{Address, ApiSource, ConfigSource, Source, TransportKind};
use shared_config::resource::{Resource, decode_resource};
use tokio::time::Instant;

use crate::control::{Progress, SharedEngine};
use crate::process::Options;

/// The resources that serve, as they came, for dumps.
#[derive(Debug, Default)]
pub(crate) struct Received(Mutex<BTreeMap<(Kind, String), proto::Any>>);

/// Takes what the sources bring into the engine.
pub(crate) struct Intake {
    engine: SharedEngine,
    progress: Arc<Progress>,
    received: Arc<Received>,
    reach: Reach,
}

/// From where the bootstrap lets resources come.
pub(crate) struct Reach {
    ads: bool,
    /// The clusters of xDS servers.
    servers: BTreeSet<String>,
}

// === impl Received ===

impl Received {
    /// The resources of one kind, by name.
    pub(crate) fn of(&self, kind: Kind) -> Vec<(String, proto::Any)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = all.iter().filter(|((of, _), _)| *of == kind);
        of_kind.map(|((_, name), any)| (name.clone(), any.clone())).collect()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<(Kind, String), proto::Any>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

// === impl Intake ===

impl Intake {
    pub(crate) fn new(engine: SharedEngine, progress: Arc<Progress>, received: Arc<Received>, reach: Reach) -> Self {
        Self { engine, progress, received, reach }
    }

    /// Puts resources in; answers those that cannot be decoded, with why.
    fn update(
        &self,
        kind: Kind,
        version: Option<&str>,
        upserts: Vec<dp_ads::Raw>,
        removed: &[String],
    ) -> Vec<(String, String)> {
        let mut rejected = Vec::new();
        let mut engine = self.engine.lock();
        let mut names = BTreeSet::new();
        let mut to_come: BTreeSet<String> = upserts.iter().map(|raw| raw.name.clone()).collect();
        for raw in upserts {
            match decode_resource(&raw.any) {
                Ok(resource) if resource.name() == raw.name => {
                    let replaced = |of: Kind, name: &str| of == kind && to_come.contains(name);
                    if let Err(reason) = self.reach.check(&resource, || engine.wanted_without(replaced)) {
                        rejected.push((raw.name, reason));
                        continue;
                    }
                    to_come.remove(&raw.name);
                    self.received.change(|all| {
                        all.insert((kind, raw.name.clone()), raw.any);
                    });
                    let changed = engine.put(Origin::Dynamic, resource);
                    if let (Kind::Endpoints, Some(version)) = (kind, version) {
                        engine.endpoints_told(&raw.name, Told::Accepted { version, changed });
                    }
                    names.insert(raw.name);
                }
                Ok(resource) => {
                    let reason = format!("the resource calls itself {:?}", resource.name());
                    rejected.push((raw.name, reason));
                }
                Err(invalid) => rejected.push((raw.name, invalid.to_string())),
            }
        }
        for name in removed {
            engine.remove(kind, name);
            if let (Kind::Endpoints, Some(version)) = (kind, version) {
                engine.endpoints_told(name, Told::Nothing { version });
            }
            self.received.change(|all| {
                all.remove(&(kind, name.clone()));
            });
        }
        if kind == Kind::Endpoints && version.is_some() {
            rejected.iter().for_each(|(name, _)| engine.endpoints_told(name, Told::Rejected));
        }
        let settled = engine.settle(Instant::now());
        drop(engine);
        self.engine.announce();
        for (of, name, reason) in settled.refused {
            if of == kind && names.contains(&name) {
                rejected.push((name, reason));
            } else {
                tracing::warn!(kind = ?of, name, reason, "a resource was refused; the version before it stays");
            }
        }
        rejected
    }
}

impl Consumer for Intake {
    fn on(&mut self, event: Event) -> Verdict {
        let mut verdict = Verdict::default();
        match event {
            Event::Update { kind, version, upserts, removed } => {
                if let Some(kind) = kind_of(kind) {
                    verdict.rejected = self.update(kind, version.as_deref(), upserts, &removed);
                    self.progress.came(kind);
                }
            }
            Event::Failed { kind, names } => {
                if kind == ResourceKind::Endpoints {
                    let engine = self.engine.lock();
                    names.iter().for_each(|name| engine.endpoints_told(name, Told::Failed));
                }
            }
            Event::Begin { revision } => self.engine.lock().begin(revision),
            Event::End { revision } => {
                self.engine.lock().end(revision);
                self.engine.settle();
            }
            Event::InitialFetchTimeout { kind, names } => {
                if let Some(kind) = kind_of(kind) {
                    tracing::warn!(?kind, ?names, "no configuration came in time");
                    let mut engine = self.engine.lock();
                    if kind == Kind::Endpoints {
                        names.iter().for_each(|name| engine.endpoints_told(name, Told::TimedOut));
                    }
                    engine.not_found(kind, names);
                    drop(engine);
                    self.engine.settle();
                    self.progress.came(kind);
                }
            }
            Event::Connected => tracing::info!("a source of configuration answers"),
            Event::Disconnected { reason } => {
                tracing::warn!(reason, "a source of configuration went away; the last good one stays");
                self.engine.lock().abandon(Instant::now());
                self.engine.settle();
            }
        }
        verdict.wanted = to_fetch(self.engine.lock().wanted());
        verdict
    }

    fn is_published(&self) -> bool {
        self.engine.lock().is_published()
    }
}

/// What is referred to, by who fetches it: the streams or a file.
fn to_fetch(wanted: dp_snapshot::Wanted) -> dp_ads::Wanted {
    let mut fetched = dp_ads::Wanted::default();
    for (kind, names) in wanted.names {
        for (name, source) in names {
            match source.source {
                Source::File { path, watched_directory } => {
                    let file = FileSource { path, watched_directory };
                    let fetch_timeout = source.initial_fetch_timeout;
                    fetched.files.insert(FileWanted { kind: resource_kind(kind), name, file, fetch_timeout });
                }
                Source::Ads | Source::Api(_) => fetched.add(resource_kind(kind), name),
            }
        }
    }
    fetched
}

// === impl Reach ===

impl Reach {
    pub(crate) fn of(bootstrap: &Bootstrap) -> Self {
        let apis = [&bootstrap.lds, &bootstrap.cds].into_iter().flatten().filter_map(|source| match &source.source {
            Source::Api(api) => Some(&**api),
            Source::Ads | Source::File { .. } => None,
        });
        let services = apis.chain(&bootstrap.ads).filter_map(|api| api.services.first());
        Self { ads: bootstrap.ads.is_some(), servers: services.map(|service| service.cluster.clone()).collect() }
    }

    /// Checks that what a resource refers to can be fetched. `others` are the references of all other resources.
    pub(crate) fn check(
        &self,
        resource: &Resource,
        others: impl FnOnce() -> dp_snapshot::Wanted,
    ) -> Result<(), String> {
        let references = dp_snapshot::references(resource);
        for (kind, names) in &references.names {
            for (name, source) in names {
                let problem = match &source.source {
                    Source::Ads if !self.ads => "ads needs dynamic_resources.ads_config".to_owned(),
                    Source::Api(api) if !api.services.iter().take(1).all(|s| self.servers.contains(&s.cluster)) => {
                        "an api_config_source of its own is not implemented by weir-proxy: use ads, or the xDS server \
                         of lds_config or cds_config"
                            .to_owned()
                    }
                    _ => continue,
                };
                return Err(format!("{} {name:?}: {problem}", kind.name()));
            }
        }
        if references.has_files()
            && let Some((kind, name)) = references.conflict(&others())
        {
            let reason = "another resource takes it from elsewhere; names are unique in weir-proxy";
            return Err(format!("{} {name:?}: {reason}", kind.name()));
        }
        Ok(())
    }
}

fn kind_of(kind: ResourceKind) -> Option<Kind> {
    Some(match kind {
        ResourceKind::Cluster => Kind::Cluster,
        ResourceKind::Endpoints => Kind::Endpoints,
        ResourceKind::Listener => Kind::Listener,
        ResourceKind::Route => Kind::Routes,
        ResourceKind::Secret => Kind::Secret,
        ResourceKind::Extension => Kind::Filter,
        _ => return None,
    })
}

pub(crate) fn resource_kind(kind: Kind) -> ResourceKind {
    match kind {
        Kind::Cluster => ResourceKind::Cluster,
        Kind::Endpoints => ResourceKind::Endpoints,
        Kind::Listener => ResourceKind::Listener,
        Kind::Routes => ResourceKind::Route,
        Kind::Secret => ResourceKind::Secret,
        Kind::Filter => ResourceKind::Extension,
    }
}

// === from the bootstrap ===

/// Where the bootstrap says that configuration comes from.
///
/// # Errors
/// A source names a cluster that the bootstrap does not have, or one without a fixed address.
pub(crate) fn setup(bootstrap: &Bootstrap, options: &Options, wanted: dp_snapshot::Wanted) -> Result<Setup, String> {
    let mut setup = Setup {
        node: node(bootstrap),
        streams: Vec::new(),
        files: Vec::new(),
        wanted: to_fetch(wanted),
        last_good: options
            .state_dir
            .clone()
            .map(|directory| LastGoodOptions { directory, keep_secrets: options.state_secrets }),
    };
    let mut aggregated = BTreeSet::new();
    for (kind, source) in [(ResourceKind::Listener, &bootstrap.lds), (ResourceKind::Cluster, &bootstrap.cds)] {
        let Some(source) = source else { continue };
        match &source.source {
            Source::Ads => {
                aggregated.insert(kind);
            }
            Source::File { path, watched_directory } => {
                let file = FileSource { path: path.clone(), watched_directory: watched_directory.clone() };
                let fetch_timeout = source.initial_fetch_timeout;
                setup.files.push(FileWanted { kind, name: String::new(), file, fetch_timeout });
            }
            Source::Api(api) => {
                let mut stream = stream(api, bootstrap, source)?;
                stream.aggregated = false;
                stream.marks = false;
                stream.roots = [kind].into();
                setup.streams.push(stream);
            }
        }
    }
    if let Some(api) = &bootstrap.ads {
        let source = ConfigSource { source: Source::Ads, initial_fetch_timeout: None };
        let from = bootstrap.lds.as_ref().or(bootstrap.cds.as_ref()).unwrap_or(&source);
        let mut stream = stream(api, bootstrap, from)?;
        stream.marks = aggregated.len() == 2;
        stream.roots = aggregated;
        setup.streams.push(stream);
    }
    Ok(setup)
}

/// The server that load is reported to.
///
/// # Errors
/// As `setup`.
pub(crate) fn load_source(bootstrap: &Bootstrap) -> Result<Option<StreamSource>, String> {
    let Some(api) = &bootstrap.load_stats else { return Ok(None) };
    stream(api, bootstrap, &ConfigSource { source: Source::Ads, initial_fetch_timeout: None }).map(Some)
}

fn node(bootstrap: &Bootstrap) -> NodeIdentity {
    let node = &bootstrap.node;
    NodeIdentity {
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        region: node.region.clone(),
        zone: node.zone.clone(),
        sub_zone: node.sub_zone.clone(),
        metadata: prost_types::Struct { fields: node.metadata.iter().map(|(k, v)| (k.clone(), value(v))).collect() },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: Vec::new(),
        client_features: Vec::new(),
    }
}

/// JSON as protobuf has it.
fn value(json: &Value) -> prost_types::Value {
    use prost_types::value::Kind as Of;
    let kind = match json {
        Value::Null => Of::NullValue(0),
        Value::Bool(flag) => Of::BoolValue(*flag),
        Value::Number(number) => Of::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Of::StringValue(text.clone()),
        Value::Array(items) => Of::ListValue(prost_types::ListValue { values: items.iter().map(value).collect() }),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, field)| (name.clone(), value(field))).collect();
            Of::StructValue(prost_types::Struct { fields })
        }
    };
    prost_types::Value { kind: Some(kind) }
}

/// The stream to a management server behind one of our static clusters.
fn stream(api: &ApiSource, bootstrap: &Bootstrap, from: &ConfigSource) -> Result<StreamSource, String> {
    let Some(service) = api.services.first() else { return Err("a gRPC service is required".into()) };
    let clusters = || {
        bootstrap.statics(|resource| match resource {
            Resource::Cluster(cluster) => Some(&**cluster),
            _ => None,
        })
    };
    let cluster = clusters().find(|cluster| *cluster.name == *service.cluster);
    let Some(cluster) = cluster else {
        return Err(format!(
            "the cluster {:?} of the xDS server is not among static_resources.clusters",
            service.cluster
        ));
    };
    let mut stream = StreamSource::aggregated(endpoints(cluster)?);
    stream.protocol = match api.kind {
        TransportKind::Grpc => Protocol::Sotw,
        TransportKind::DeltaGrpc => Protocol::Delta,
    };
    stream.connect_timeout = cluster.connect_timeout;
    stream.fetch_timeout = from.initial_fetch_timeout;
    stream.metadata.clone_from(&service.initial_metadata);
    stream.max_message = service.max_receive_message_length.map_or(usize::MAX, |bytes| bytes as usize);
    stream.rate_limit = api.rate_limit.map(|limit| (limit.max_tokens, limit.fill_rate_milli as f64 / 1000.0));
    stream.authority = Some(service.authority.clone()).filter(|authority| !authority.is_empty());
    if cluster.tls.is_some() {
        stream.tls = Some(tls(cluster)?);
    }
    Ok(stream)
}

fn endpoints(cluster: &Cluster) -> Result<Vec<String>, String> {
    let scheme = if cluster.tls.is_some() { "https" } else { "http" };
    let assignment = cluster.assignment();
    let endpoints = assignment.into_iter().flat_map(|a| &a.localities).flat_map(|locality| &locality.endpoints);
    let addresses: Vec<String> = endpoints
        .filter_map(|endpoint| match &endpoint.address {
            Address::Ip(address) => Some(format!("{scheme}://{address}")),
            Address::Name { host, port } => Some(format!("{scheme}://{host}:{port}")),
            Address::Pipe { .. } => None,
        })
        .collect();
    if addresses.is_empty() {
        return Err(format!("the cluster {:?} of the xDS server has no address in the bootstrap", cluster.name));
    }
    Ok(addresses)
}

fn tls(cluster: &Cluster) -> Result<Tls, String> {
    use shared_config::tls::Validation;
    let Some(context) = &cluster.tls else { return Ok(Tls::default()) };
    let mut files = dp_snapshot::Files::default();
    let at = |what: &str, error: &dyn std::fmt::Display| format!("cluster {}: {what}: {error}", cluster.name);
    let mut tls = Tls::default();
    if let Validation::Inline(validation) = &context.common.validation
        && let Some(ca) = &validation.trusted_ca
    {
        tls.ca_pem = files.load(ca).map_err(|error| at("trusted_ca", &error))?.to_vec();
    }
    if tls.ca_pem.is_empty() {
        return Err(at("validation_context", &"trusted_ca is required for an xDS server over TLS"));
    }
    if let Some(certificate) = context.common.certificates.first() {
        let chain = files.load(&certificate.chain).map_err(|error| at("certificate_chain", &error))?;
        let key = files.load(&certificate.private_key).map_err(|error| at("private_key", &error))?;
        tls.identity_pem = Some((chain.to_vec(), key.to_vec()));
    }
    tls.server_name = Some(context.sni.clone()).filter(|sni| !sni.is_empty());
    Ok(tls)
}
