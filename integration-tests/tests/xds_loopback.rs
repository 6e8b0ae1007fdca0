//! Our xDS client against our xDS server, over loopback: what one publishes is what the other holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cp_xds::{Class, Fleet, Publisher, Res, Settings, XdsServer};
use dp_ads::{
    Event, FileSource, FileWanted, Handle, NodeIdentity, Protocol, Raw, ResourceKind, Setup, StreamSource, Verdict,
    Wanted,
};
use proto::Any;
use proto::envoy::config::cluster::v3::Cluster;
use proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use proto::envoy::config::listener::v3::Listener;
use proto::envoy::config::route::v3::RouteConfiguration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet};

const CDS: ResourceKind = ResourceKind::Cluster;
const EDS: ResourceKind = ResourceKind::Endpoints;
const LDS: ResourceKind = ResourceKind::Listener;
const RDS: ResourceKind = ResourceKind::Route;

/// `cds:a=1` is an EDS cluster `a` with content 1; the listener `lds:l=1` uses the route `l`.
fn resource(text: &str) -> Res {
    let (kind, rest) = text.split_once(':').expect("kind");
    let (name, content) = rest.split_once('=').expect("content");
    let (name, number) = (name.to_owned(), content.parse::<u32>().expect("a number"));
    let any = match ResourceKind::from_short(kind).expect("a kind") {
        ResourceKind::Cluster => Any::pack(&Cluster {
            name,
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
            per_connection_buffer_limit_bytes: Some(number),
            ..Default::default()
        }),
        ResourceKind::Endpoints => Any::pack(&ClusterLoadAssignment {
            cluster_name: name,
            policy: Some(proto::envoy::config::endpoint::v3::cluster_load_assignment::Policy {
                overprovisioning_factor: Some(number),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ResourceKind::Listener => {
            let per_connection_buffer_limit_bytes = Some(number);
            Any::pack(&Listener { name, per_connection_buffer_limit_bytes, ..Default::default() })
        }
        ResourceKind::Route => {
            let max_direct_response_body_size_bytes = Some(number);
            Any::pack(&RouteConfiguration { name, max_direct_response_body_size_bytes, ..Default::default() })
        }
        other => panic!("{other} is not used here"),
    };
    cp_xds::resource(any).expect("valid")
}

fn resources(texts: &str) -> Vec<Res> {
    texts.split_whitespace().map(resource).collect()
}

/// A control plane that can be stopped and started again on the same port.
struct Control {
    publisher: Publisher,
    fleet: Arc<Fleet>,
    server: XdsServer,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Control {
    async fn start() -> Self {
        Self::start_with("127.0.0.1:0".parse().expect("valid"), Settings::one_group("edge"), None).await
    }

    async fn start_with(address: SocketAddr, settings: Settings, tls: Option<cp_xds::Tls>) -> Self {
        // The port of a control plane that was just stopped may not be free at once.
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let address = listener.local_addr().expect("bound");
        let publisher = Publisher::default();
        let fleet = Fleet::new(Default::default());
        let server = XdsServer::new(publisher.clone(), fleet.clone(), settings);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = cp_xds::serve(server.clone(), listener, tls, async {
            let _ = stopped.await;
        });
        let task = tokio::spawn(async { serving.await.expect("served") });
        Self { publisher, fleet, server, address, stop: Some(stop), task }
    }

    fn publish(&self, revision: u64, texts: &str) {
        self.publisher.publish("edge", Class::Weir, resources(texts), revision);
    }

    /// Ends every stream and gives up the port.
    async fn stop(mut self) -> SocketAddr {
        drop(self.stop.take());
        tokio::time::timeout(SECONDS, self.task).await.expect("it ends").expect("in good order");
        self.address
    }

    async fn settled(&self, revision: u64) {
        let mut changes = self.fleet.watch();
        let known = async {
            loop {
                if self.fleet.nodes().iter().any(|node| node.revision == Some(revision)) {
                    return;
                }
                changes.changed().await.expect("the fleet lives");
            }
        };
        tokio::time::timeout(SECONDS, known)
            .await
            .unwrap_or_else(|_| panic!("revision {revision} in {:?}", self.fleet.nodes()));
    }
}

const SECONDS: Duration = Duration::from_secs(20);

/// A data plane reduced to what it holds.
struct Proxy {
    handle: Handle,
    events: mpsc::UnboundedReceiver<Event>,
    view: BTreeMap<(ResourceKind, String), Raw>,
    log: Vec<String>,
}

/// Wants the endpoints of every cluster and a route for every listener; refuses what is called `bad…`.
fn consumer(out: mpsc::UnboundedSender<Event>) -> impl FnMut(Event) -> Verdict + Send + 'static {
    let mut names: BTreeMap<ResourceKind, BTreeSet<String>> = BTreeMap::new();
    move |event| {
        let mut verdict = Verdict::default();
        if let Event::Update { kind, upserts, removed, .. } = &event {
            let bad = upserts.iter().filter(|raw| raw.name.starts_with("bad"));
            verdict.rejected = bad.map(|raw| (raw.name.clone(), "is bad".to_owned())).collect();
            let follows = [(CDS, EDS), (LDS, RDS)].into_iter().find(|(from, _)| from == kind);
            if let Some((_, wanted)) = follows {
                let names = names.entry(wanted).or_default();
                names.extend(upserts.iter().map(|raw| raw.name.clone()).filter(|name| !name.starts_with("bad")));
                removed.iter().for_each(|name| {
                    names.remove(name);
                });
            }
        }
        verdict.wanted.names = names.clone();
        let _ = out.send(event);
        verdict
    }
}

fn identity() -> NodeIdentity {
    NodeIdentity { id: "proxy-1".to_owned(), version: "0.1.0".to_owned(), ..Default::default() }
}

fn setup(address: SocketAddr, protocol: Protocol) -> Setup {
    let backoff = Duration::from_millis(20);
    let source = StreamSource {
        protocol,
        backoff_base: backoff,
        backoff_max: backoff,
        ..StreamSource::aggregated(vec![format!("http://{address}")])
    };
    Setup { node: identity(), streams: vec![source], files: Vec::new(), wanted: Wanted::default(), last_good: None }
}

impl Proxy {
    fn start(setup: Setup) -> (Self, JoinHandle<()>) {
        let (out, events) = mpsc::unbounded_channel();
        let (handle, running) = dp_ads::client(setup, consumer(out));
        let task = tokio::task::spawn_local(running);
        (Self { handle, events, view: BTreeMap::new(), log: Vec::new() }, task)
    }

    async fn next(&mut self) -> Event {
        let event = loop {
            let event = tokio::time::timeout(SECONDS, self.events.recv()).await;
            match event.unwrap_or_else(|_| panic!("nothing came after {:?}", self.log)).expect("the client lives") {
                // How often that happens depends on the time.
                Event::Failed { .. } => {}
                event => break event,
            }
        };
        self.log.push(match &event {
            Event::Update { kind, upserts, removed, .. } => {
                let mut text = kind.to_string();
                upserts.iter().for_each(|raw| text.push_str(&format!(" +{}", raw.name)));
                removed.iter().for_each(|name| text.push_str(&format!(" -{name}")));
                text
            }
            Event::Disconnected { .. } => "disconnected".to_owned(),
            other => format!("{other:?}"),
        });
        if let Event::Update { kind, upserts, removed, .. } = &event {
            for raw in upserts {
                self.view.insert((*kind, raw.name.clone()), raw.clone());
            }
            for name in removed {
                self.view.remove(&(*kind, name.clone()));
                if *kind == CDS {
                    self.view.remove(&(EDS, name.clone()));
                }
            }
        }
        event
    }

    /// Goes on until exactly these resources are held.
    async fn holds(&mut self, texts: &str) {
        let expected: BTreeMap<_, _> =
            resources(texts).into_iter().map(|r| ((r.kind, r.name.to_string()), r.any)).collect();
        loop {
            let view: BTreeMap<_, _> = self.view.iter().map(|(key, raw)| (key.clone(), raw.any.clone())).collect();
            if view == expected {
                return;
            }
            self.next().await;
        }
    }

    async fn until(&mut self, text: &str) {
        while self.log.last().map(String::as_str) != Some(text) {
            self.next().await;
        }
    }

    fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

async fn local<F: Future>(future: F) -> F::Output {
    LocalSet::new().run_until(future).await
}

const FIRST: &str = "cds:a=1 cds:b=1 eds:a=1 eds:b=1 lds:l=1 rds:l=1";

#[tokio::test]
async fn a_configuration_and_its_changes_arrive_in_both_variants() {
    local(async {
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            let control = Control::start().await;
            control.publish(1, FIRST);
            let (mut proxy, _running) = Proxy::start(setup(control.address, protocol));
            proxy.holds(FIRST).await;
            control.settled(1).await;
            control.publish(2, "cds:a=2 cds:b=1 eds:a=1 eds:b=2 lds:l=1 rds:l=2");
            proxy.holds("cds:a=2 cds:b=1 eds:a=1 eds:b=2 lds:l=1 rds:l=2").await;
            control.settled(2).await;
            let node = control.fleet.node("proxy-1").expect("seen");
            assert_eq!((node.info.class, &*node.group, node.streams), (Class::Weir, "edge", 1));
            assert!(
                node.kinds.values().all(|kind| kind.status() == cp_fleet::ConfigStatus::Synced),
                "{:?}",
                node.kinds
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_revision_comes_between_its_marks_with_removals_last() {
    local(async {
        let control = Control::start().await;
        control.publish(1, FIRST);
        let (mut proxy, _running) = Proxy::start(setup(control.address, Protocol::Delta));
        proxy.holds(FIRST).await;
        control.settled(1).await;
        while proxy.events.try_recv().is_ok() {}
        assert!(
            proxy.log.iter().position(|line| line.starts_with("Begin"))
                < proxy.log.iter().position(|line| line.starts_with("cds"))
        );
        proxy.take_log();
        control.publish(2, "cds:b=2 cds:c=1 eds:b=1 eds:c=1 lds:l=2 rds:l=2");
        proxy.until("End { revision: 2 }").await;
        let log = proxy.take_log();
        let refreshed = log.iter().position(|line| line.starts_with("eds +b")).expect("endpoints follow their cluster");
        assert!(refreshed < log.iter().position(|line| line == "lds +l").expect("a listener"));
        let others: Vec<_> = log.iter().filter(|line| !line.starts_with("eds")).collect();
        assert_eq!(others, ["Begin { revision: 2 }", "cds +b +c", "lds +l", "rds +l", "cds -a", "End { revision: 2 }"]);
        proxy.holds("cds:b=2 cds:c=1 eds:b=1 eds:c=1 lds:l=2 rds:l=2").await;
    })
    .await;
}

#[tokio::test]
async fn a_refused_resource_leaves_the_others_and_is_seen_by_the_control_plane() {
    local(async {
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            let control = Control::start().await;
            control.publish(1, "cds:bad-one=1 cds:good=1 eds:good=1");
            let (mut proxy, _running) = Proxy::start(setup(control.address, protocol));
            control.settled(1).await;
            let status = control.fleet.node("proxy-1").expect("seen").kinds[&CDS].clone();
            assert_eq!(status.status(), cp_fleet::ConfigStatus::Error);
            let refusal = status.refusal.expect("refused");
            assert_eq!((&*refusal.message, &*refusal.names), ("(bad-one: is bad)", &["bad-one".to_owned()][..]));
            let cds = proxy.handle.stats().with(|view| view.kinds[&CDS].clone());
            assert_eq!((cds.update_rejected, cds.resources["bad-one"].error.as_deref()), (1, Some("is bad")));
            assert!(!cds.resources["good"].version.is_empty());
            control.publish(2, "cds:good=2 eds:good=1");
            control.settled(2).await;
            let good = (CDS, "good".to_owned());
            while proxy.view.get(&good).map(|raw| &raw.any) != Some(&resource("cds:good=2").any) {
                proxy.next().await;
            }
            let status = control.fleet.node("proxy-1").expect("seen").kinds[&CDS].clone();
            assert_eq!(status.status(), cp_fleet::ConfigStatus::Synced);
        }
    })
    .await;
}

#[tokio::test]
async fn after_a_restart_of_the_control_plane_only_the_difference_comes() {
    local(async {
        let control = Control::start().await;
        control.publish(1, FIRST);
        let (mut proxy, _running) = Proxy::start(setup(control.address, Protocol::Delta));
        proxy.holds(FIRST).await;
        control.settled(1).await;
        let address = control.stop().await;
        proxy.until("disconnected").await;
        proxy.take_log();

        let control = Control::start_with(address, Settings::one_group("edge"), None).await;
        control.publish(1, FIRST);
        control.settled(1).await;
        proxy.until("End { revision: 1 }").await;
        let updates: Vec<_> =
            proxy.take_log().into_iter().filter(|line| line.contains('+') || line.contains(" -")).collect();
        assert_eq!(updates, [""; 0], "nothing was resent");

        let address = control.stop().await;
        proxy.until("disconnected").await;
        let control = Control::start_with(address, Settings::one_group("edge"), None).await;
        let second = FIRST.replace("rds:l=1", "rds:l=2").replace("cds:b=1 ", "").replace("eds:b=1 ", "");
        control.publish(2, &second);
        control.settled(2).await;
        proxy.until("End { revision: 2 }").await;
        let is_change = |line: &String| line.contains('+') || line.contains(" -");
        let updates: Vec<_> = proxy.take_log().into_iter().filter(is_change).collect();
        let updates: Vec<_> = updates.into_iter().filter(|line| line != "eds -b").collect();
        assert_eq!(updates, ["rds +l", "cds -b"]);
    })
    .await;
}

#[tokio::test]
async fn a_restart_without_a_control_plane_serves_from_disk_and_catches_up_later() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = dp_ads::LastGoodOptions { directory: directory.path().to_owned(), keep_secrets: false };
    local(async {
        let control = Control::start().await;
        control.publish(1, FIRST);
        let kept = |address| Setup { last_good: Some(options.clone()), ..setup(address, Protocol::Delta) };
        let (mut proxy, running) = Proxy::start(kept(control.address));
        proxy.holds(FIRST).await;
        control.settled(1).await;
        // The file is written some time after the last change.
        let file = directory.path().join("last-good.binpb");
        let written = async {
            while std::fs::metadata(&file).map_or(0, |file| file.len()) < 300 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SECONDS, written).await.expect("written");
        running.abort();
        let address = control.stop().await;

        let started = std::time::Instant::now();
        let (mut proxy, _running) = Proxy::start(kept(address));
        proxy.holds(FIRST).await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert!(proxy.handle.stats().view().from_disk);
        proxy.take_log();

        let control = Control::start_with(address, Settings::one_group("edge"), None).await;
        control.publish(2, &FIRST.replace("cds:b=1", "cds:b=2"));
        control.settled(2).await;
        proxy.until("End { revision: 2 }").await;
        let updates: Vec<_> = proxy.take_log().into_iter().filter(|line| line.contains('+')).collect();
        assert_eq!(updates, ["cds +b", "eds +b"], "only what changed, and the endpoints that follow their cluster");
        assert!(!proxy.handle.stats().view().from_disk);
    })
    .await;
}

#[tokio::test]
async fn streams_of_single_types_bring_the_same() {
    local(async {
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            let control = Control::start().await;
            control.publish(1, FIRST);
            let mut setup = setup(control.address, protocol);
            setup.streams[0].aggregated = false;
            let (mut proxy, _running) = Proxy::start(setup);
            proxy.holds(FIRST).await;
        }
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_clusters_arrive_in_pieces() {
    local(async {
        let control = Control::start().await;
        let texts: Vec<String> = (0..10_000).flat_map(|i| [format!("cds:c{i}=1"), format!("eds:c{i}=1")]).collect();
        control.publish(1, &texts.join(" "));
        let (mut proxy, _running) = Proxy::start(setup(control.address, Protocol::Delta));
        while proxy.view.len() < 20_000 {
            proxy.next().await;
        }
        control.settled(1).await;
    })
    .await;
}

#[tokio::test]
async fn a_node_is_admitted_by_the_name_in_its_certificate() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
    let mut ca = CertificateParams::new(Vec::new()).expect("valid");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("signed");
    let leaf = |names: Vec<SanType>| {
        let mut params = CertificateParams::new(Vec::new()).expect("valid");
        params.subject_alt_names = names;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &ca).expect("signed");
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    };
    let dns = SanType::DnsName("control".try_into().expect("valid"));
    let (certificate_pem, key_pem) = leaf(vec![dns]);
    let client = |uri: &str| leaf(vec![SanType::URI(uri.try_into().expect("valid"))]);
    let tls = cp_xds::Tls { certificate_pem, key_pem, client_ca_pem: Some(ca.pem().into_bytes()) };
    let admit: cp_xds::Admit = Arc::new(|peer, node| {
        let expected = format!("spiffe://weir/node/{}", node.id);
        if peer.uris.contains(&expected) { Ok(()) } else { Err(format!("{:?} may not be {}", peer.uris, node.id)) }
    });
    local(async {
        let settings = Settings { admit, ..Settings::one_group("edge") };
        let control = Control::start_with("127.0.0.1:0".parse().expect("valid"), settings, Some(tls)).await;
        control.publish(1, FIRST);
        let with = |identity| {
            let mut setup = setup(control.address, Protocol::Delta);
            setup.streams[0].endpoints = vec![format!("https://{}", control.address)];
            let ca_pem = ca.pem().into_bytes();
            setup.streams[0].tls =
                Some(dp_ads::Tls { ca_pem, identity_pem: identity, server_name: Some("control".to_owned()) });
            setup
        };
        let (mut proxy, _running) = Proxy::start(with(Some(client("spiffe://weir/node/proxy-1"))));
        proxy.holds(FIRST).await;
        let (_other, _running) = Proxy::start(with(Some(client("spiffe://weir/node/other"))));
        let refused = async {
            while control.server.counters().refused_streams.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SECONDS, refused).await.expect("the other is refused");
        assert_eq!(control.fleet.node("proxy-1").map(|node| node.streams), Some(1));
    })
    .await;
}

#[tokio::test]
async fn a_file_is_read_and_read_again_when_it_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cds.yaml");
    let replace = |names: &[&str]| {
        let mut text = "resources:\n".to_owned();
        for name in names {
            text.push_str(&format!("- \"@type\": {}\n  name: {name}\n  type: EDS\n", CDS.type_url()));
        }
        let fresh = directory.path().join("fresh");
        std::fs::write(&fresh, text).expect("written");
        std::fs::rename(&fresh, &path).expect("moved");
    };
    replace(&["a", "b"]);
    local(async {
        let file = FileSource { path: path.clone(), watched_directory: None };
        let files = vec![FileWanted { kind: CDS, name: String::new(), file, fetch_timeout: None }];
        let (mut proxy, _running) = Proxy::start(Setup {
            node: identity(),
            streams: Vec::new(),
            files,
            wanted: Wanted::default(),
            last_good: None,
        });
        proxy.until("cds +a +b").await;
        replace(&["b", "c"]);
        proxy.until("cds +c -a").await;
        std::fs::write(&path, "resources: [").expect("written");
        let failed = async {
            while proxy.handle.stats().with(|view| view.kinds[&CDS].update_failure) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SECONDS, failed).await.expect("the broken file is seen");
        replace(&["c", "b", "bad"]);
        proxy.until("cds +bad").await;
        assert_eq!(proxy.handle.stats().with(|view| view.kinds[&CDS].update_rejected), 1);
    })
    .await;
}

#[tokio::test]
async fn what_never_comes_is_told_after_the_timeout() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let mut setup = setup(listener.local_addr().expect("bound"), Protocol::Delta);
        setup.streams[0].fetch_timeout = Some(Duration::from_millis(50));
        let (mut proxy, _running) = Proxy::start(setup);
        let mut late = BTreeSet::new();
        while late.len() < 2 {
            if let Event::InitialFetchTimeout { kind, names } = proxy.next().await {
                assert!(names.is_empty());
                late.insert(kind);
            }
        }
        assert_eq!(late, [CDS, LDS].into());
    })
    .await;
}

/// A consumer that is asked whether all that came serves.
struct Asked<F> {
    consumer: F,
    published: Arc<std::sync::atomic::AtomicBool>,
}

impl<F: FnMut(Event) -> Verdict + Send> dp_ads::Consumer for Asked<F> {
    fn on(&mut self, event: Event) -> Verdict {
        (self.consumer)(event)
    }

    fn is_published(&self) -> bool {
        self.published.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[tokio::test]
async fn what_does_not_serve_as_a_whole_is_not_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cds.yaml");
    let text = format!("resources: [{{\"@type\": \"{}\", name: a, type: EDS}}]", CDS.type_url());
    std::fs::write(&path, text).expect("written");
    local(async {
        let file = FileSource { path: path.clone(), watched_directory: None };
        let kept = directory.path().join("state");
        let last_good = dp_ads::LastGoodOptions { directory: kept.clone(), keep_secrets: false };
        let setup = Setup {
            node: identity(),
            streams: Vec::new(),
            files: vec![FileWanted { kind: CDS, name: String::new(), file, fetch_timeout: None }],
            wanted: Wanted::default(),
            last_good: Some(last_good),
        };
        let published = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (out, mut events) = mpsc::unbounded_channel();
        let asked = Asked { consumer: consumer(out), published: Arc::clone(&published) };
        let (_handle, running) = dp_ads::client(setup, asked);
        tokio::task::spawn_local(running);
        tokio::time::timeout(SECONDS, events.recv()).await.expect("in time").expect("the file came");
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let file = kept.join("last-good.binpb");
        assert!(!file.exists(), "half a revision was kept");
        published.store(true, std::sync::atomic::Ordering::SeqCst);
        let saved = async {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SECONDS, saved).await.expect("the whole is kept");
    })
    .await;
}
