//! A management server that says wrong things. Traffic never fails, what is good is applied, what is not is named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use proto::Any;
use proto::envoy::config::cluster::v3::Cluster;
use proto::envoy::config::listener::v3::Listener;
use proto::envoy::config::route::v3::RouteConfiguration;
use proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::harness::*;

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const MARK: &str = "type.googleapis.com/weir.xds.v1.SnapshotMark";
/// Said to a stream, it ends it.
const CUT: &str = "";
const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

type Resources = Vec<(String, Any)>;

/// What the server says now, and what it was told.
#[derive(Default)]
struct Script {
    resources: BTreeMap<&'static str, Resources>,
    version: u64,
    /// Says "send" to the stream that is open.
    stream: Option<mpsc::UnboundedSender<&'static str>>,
    refusals: Vec<(String, String)>,
    acks: Vec<(String, String)>,
}

#[derive(Clone, Default)]
struct Hostile(Arc<Mutex<Script>>);

/// A request or a response of either protocol.
struct Heard {
    type_url: String,
    nonce: String,
    error: Option<String>,
    /// Names that are to be sent at once.
    names: Option<BTreeSet<String>>,
}

impl Hostile {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind(LOOPBACK).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let server = Self::default();
        let service = AggregatedDiscoveryServiceServer::new(server.clone()).max_encoding_message_size(1 << 30);
        let serving = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpIncoming::from(listener)));
        (server, address)
    }

    /// From now on these are all resources of a type; says it to the stream, and gives the version it has.
    fn set(&self, kind: &'static str, resources: Resources) -> String {
        let mut script = self.0.lock().expect("whole");
        script.version += 1;
        script.resources.insert(kind, resources);
        if let Some(stream) = &script.stream {
            // A stream that ended takes the next state when it comes again.
            let _ = stream.send(kind);
        }
        script.version.to_string()
    }

    /// Ends the stream that is open.
    fn cut(&self) {
        let stream = self.0.lock().expect("whole").stream.take().expect("open");
        stream.send(CUT).expect("open");
    }

    /// What the first refusal since the last look says.
    async fn refusal(&self, of: &str) -> String {
        let mut text = None;
        eventually("a refusal", || {
            let mut script = self.0.lock().expect("whole");
            text = script.refusals.iter().find(|(kind, _)| kind == of).map(|(_, text)| text.clone());
            script.refusals.clear();
            text.is_some()
        })
        .await;
        text.expect("just seen")
    }

    async fn accepted(&self, of: &str, version: &str) {
        let is_it = |(kind, nonce): &(String, String)| kind == of && nonce == version;
        eventually("an acknowledgement", || self.0.lock().expect("whole").acks.iter().any(is_it)).await;
    }

    fn hear(&self, heard: Heard) -> Option<(&'static str, Option<BTreeSet<String>>)> {
        let kind = [MARK, CDS, EDS, LDS, RDS].into_iter().find(|kind| *kind == heard.type_url)?;
        let mut script = self.0.lock().expect("whole");
        match heard.error {
            Some(error) => script.refusals.push((heard.type_url, error)),
            None if !heard.nonce.is_empty() => script.acks.push((heard.type_url, heard.nonce)),
            None => {}
        }
        heard.names.map(|names| (kind, Some(names).filter(|names| !names.is_empty())))
    }

    /// The resources of a type, or those of some names; the version is the nonce too.
    fn resources(&self, kind: &'static str, names: Option<&BTreeSet<String>>) -> (Resources, String) {
        let script = self.0.lock().expect("whole");
        let all = script.resources.get(kind).cloned().unwrap_or_default();
        let asked = all.into_iter().filter(|(name, _)| names.is_none_or(|names| names.contains(name)));
        (asked.collect(), script.version.to_string())
    }

    /// Serves one stream: answers what is asked for the first time, and says what is set.
    fn serve<Q, A>(
        &self,
        mut requests: Streaming<Q>,
        heard: impl Fn(Q, &mut BTreeMap<String, BTreeSet<String>>) -> Heard + Send + 'static,
        response: impl Fn(&str, Resources, String) -> A + Send + 'static,
    ) -> mpsc::UnboundedReceiver<Result<A, Status>>
    where
        Q: Send + 'static,
        A: Send + 'static,
    {
        let (out, answers) = mpsc::unbounded_channel();
        let (say, mut said) = mpsc::unbounded_channel();
        self.0.lock().expect("whole").stream = Some(say);
        let server = self.clone();
        tokio::spawn(async move {
            let mut asked = BTreeMap::new();
            loop {
                let answer = tokio::select! {
                    request = requests.next() => match request {
                        Some(Ok(request)) => server.hear(heard(request, &mut asked)),
                        _ => return,
                    },
                    Some(kind) = said.recv() => if kind == CUT { return } else { Some((kind, None)) },
                };
                let Some((kind, names)) = answer else { continue };
                let (resources, version) = server.resources(kind, names.as_ref());
                // Of what it does not have it says nothing.
                if (!resources.is_empty() || names.is_none())
                    && out.send(Ok(response(kind, resources, version))).is_err()
                {
                    return;
                }
            }
        });
        answers
    }
}

type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Hostile {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let heard = |request: DiscoveryRequest, asked: &mut BTreeMap<String, BTreeSet<String>>| {
            let names: BTreeSet<String> = request.resource_names.into_iter().collect();
            let before = asked.insert(request.type_url.clone(), names.clone());
            Heard {
                names: (before.as_ref() != Some(&names)).then_some(names),
                type_url: request.type_url,
                nonce: request.response_nonce,
                error: request.error_detail.map(|status| status.message),
            }
        };
        let response = |kind: &str, resources: Resources, version: String| DiscoveryResponse {
            version_info: version.clone(),
            nonce: version,
            type_url: kind.to_owned(),
            resources: resources.into_iter().map(|(_, any)| any).collect(),
            ..Default::default()
        };
        let answers = self.serve(request.into_inner(), heard, response);
        Ok(Response::new(Box::pin(tokio_stream::wrappers::UnboundedReceiverStream::new(answers))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let heard = |request: DeltaDiscoveryRequest, asked: &mut BTreeMap<String, BTreeSet<String>>| {
            let first = !asked.contains_key(&request.type_url);
            asked.entry(request.type_url.clone()).or_default();
            let fresh: BTreeSet<String> = request.resource_names_subscribe.into_iter().collect();
            Heard {
                names: (first || !fresh.is_empty()).then_some(fresh),
                type_url: request.type_url,
                nonce: request.response_nonce,
                error: request.error_detail.map(|status| status.message),
            }
        };
        let response = |kind: &str, resources: Resources, version: String| {
            let envelope = |(name, any): (String, Any)| {
                let version = version.clone();
                Resource { name, version, resource: Some(any), ..Default::default() }
            };
            DeltaDiscoveryResponse {
                system_version_info: version.clone(),
                nonce: version.clone(),
                type_url: kind.to_owned(),
                resources: resources.into_iter().map(envelope).collect(),
                ..Default::default()
            }
        };
        let answers = self.serve(request.into_inner(), heard, response);
        Ok(Response::new(Box::pin(tokio_stream::wrappers::UnboundedReceiverStream::new(answers))))
    }
}

// === resources ===

fn cluster(name: &str, origin: SocketAddr, more: &str) -> (String, Any) {
    let port = origin.port();
    let yaml = format!(
        "name: {name}\ntype: STATIC\nload_assignment:\n  cluster_name: {name}\n  endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: \
         {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]\n{more}"
    );
    (name.to_owned(), Any::pack(&proto::json::from_yaml::<Cluster>(&yaml).expect("a cluster")))
}

fn discovered(name: &str) -> (String, Any) {
    let yaml = format!(
        "{{ name: {name}, type: EDS, eds_cluster_config: {{ eds_config: {{ resource_api_version: V3, ads: {{}} }} }} }}"
    );
    (name.to_owned(), Any::pack(&proto::json::from_yaml::<Cluster>(&yaml).expect("a cluster")))
}

fn endpoints(name: &str, origin: SocketAddr) -> (String, Any) {
    use proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
    let port = origin.port();
    let yaml = format!(
        "{{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: \
         {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}"
    );
    (name.to_owned(), Any::pack(&proto::json::from_yaml::<ClusterLoadAssignment>(&yaml).expect("endpoints")))
}

fn listener(more: &str) -> (String, Any) {
    let yaml = format!(
        "name: web
address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: web
      rds: {{ route_config_name: r, config_source: {{ resource_api_version: V3, ads: {{}} }} }}
      http_filters:
      - name: router
        typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
{more}"
    );
    ("web".to_owned(), Any::pack(&proto::json::from_yaml::<Listener>(&yaml).expect("a listener")))
}

fn routes(route: &str) -> (String, Any) {
    let yaml = format!("{{ name: r, virtual_hosts: [{{ name: all, domains: ['*'], routes: [{route}] }}] }}");
    ("r".to_owned(), Any::pack(&proto::json::from_yaml::<RouteConfiguration>(&yaml).expect("routes")))
}

fn to_app() -> (String, Any) {
    routes("{ match: { prefix: / }, route: { cluster: app } }")
}

/// Bytes that are no message; the name in front can be read or not.
fn broken(name: &str, readable: bool) -> (String, Any) {
    let mut value = Vec::new();
    if readable {
        value.extend([0x0a, u8::try_from(name.len()).expect("short")]);
        value.extend(name.as_bytes());
        // The timeout of connections, which is no message.
        value.extend([0x22, 2, 0xff, 0xff]);
    } else {
        value.extend([0xff; 7]);
    }
    (name.to_owned(), Any { type_url: CDS.to_owned(), value: value.into() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_wrong_things_breaks_no_traffic_in_the_delta_protocol() {
    check(Api::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_wrong_things_breaks_no_traffic_in_the_state_of_the_world() {
    check(Api::Sotw).await;
}

async fn check(api: Api) {
    let (origins, (server, xds)) = ([origin(0).await, origin(1).await], Hostile::start().await);
    let app = || cluster("app", origins[0], "");
    server.set(CDS, vec![app()]);
    server.set(LDS, vec![listener("")]);
    server.set(RDS, vec![to_app()]);
    let proxy = proxy("one", xds, api);
    let to = address(&proxy, "web").await;
    let load = Load::start(to, is_ok);
    load.more().await;
    let has = |name: &str| proxy.snapshot().cluster(name).is_some();

    // Every wrong resource comes with a good one, which must be there afterwards, and with what serves.
    let negative = || cluster("wrong", origins[0], "connect_timeout: -1s\n");
    let stranger =
        ("stranger".to_owned(), Any { type_url: "type.googleapis.com/no.such.Type".into(), value: app().1.value });
    let mut cases = vec![
        ("readable", vec![app(), broken("wrong", true)], vec!["wrong"]),
        (
            "unreadable",
            vec![app(), broken("wrong", false)],
            if api == Api::Delta { vec!["wrong"] } else { vec!["(resources[1]: "] },
        ),
        ("serving", vec![broken("app", false)], if api == Api::Delta { vec!["app"] } else { vec!["(resources[0]: "] }),
        ("type", vec![app(), stranger], vec!["no.such.Type"]),
        ("twice", vec![app(), cluster("wrong", origins[0], ""), cluster("wrong", origins[1], "")], vec!["wrong"]),
        ("field", vec![app(), negative()], vec!["wrong", "connect_timeout"]),
        ("unnamed", vec![app(), cluster("\"\"", origins[0], "")], vec!["name"]),
    ];
    if api == Api::Delta {
        let mismatch = ("outer".to_owned(), cluster("inner", origins[0], "").1);
        cases.push(("mismatch", vec![app(), mismatch], vec!["outer", "inner"]));
    }
    for (name, mut resources, says) in cases {
        resources.push(cluster(name, origins[0], ""));
        server.set(CDS, resources);
        let text = server.refusal(CDS).await;
        assert!(says.iter().all(|says| text.contains(says)), "{api:?} {name}: {text}");
        eventually("the good one is applied", || has(name)).await;
        assert!(has("app"), "{api:?} {name}: what serves was lost");
        load.more().await;
    }

    server.set(RDS, vec![routes("{ match: { safe_regex: { regex: '(' } }, route: { cluster: app } }")]);
    let text = server.refusal(RDS).await;
    assert!(text.contains("r: ") && text.contains("virtual_hosts[0].routes[0].match.safe_regex"), "{api:?}: {text}");
    load.more().await;

    let twins = "- { name: twin, filters: [{ name: tcp, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
                 stat_prefix: t, cluster: app } }] }\n";
    server.set(LDS, vec![listener(twins)]);
    let text = server.refusal(LDS).await;
    assert!(text.contains("web") && text.contains("filter_chains"), "{api:?}: {text}");
    load.more().await;

    // A cluster without its endpoints waits; what came with it does not.
    server.set(CDS, vec![app(), discovered("later"), cluster("beside", origins[0], "")]);
    eventually("the one beside it is applied", || has("beside")).await;
    assert!(!has("later"), "{api:?}: a cluster without endpoints serves");
    load.more().await;

    let large = format!("metadata: {{ filter_metadata: {{ large: {{ text: {} }} }} }}\n", "x".repeat(30 << 20));
    server.set(CDS, vec![app(), cluster("large", origins[0], &large)]);
    eventually("a response of 30 MiB is taken", || has("large")).await;
    load.more().await;

    // Everything right again.
    server.set(EDS, vec![endpoints("later", origins[1])]);
    let clusters = server.set(CDS, vec![cluster("app", origins[1], ""), discovered("later")]);
    server.accepted(CDS, &clusters).await;
    let listeners = server.set(LDS, vec![listener("")]);
    server.accepted(LDS, &listeners).await;
    let routes = server.set(RDS, vec![to_app()]);
    server.accepted(RDS, &routes).await;
    eventually("the endpoints came", || has("later")).await;
    assert_eq!(get(to, "/").await.expect("an answer").body, "1 -", "{api:?}");
    assert!(load.end().await > 100);
}

fn mark(revision: u64, phase: proto::weir::xds::v1::snapshot_mark::Phase) -> Resources {
    let name = String::from("snapshot:cds+lds");
    let mark = proto::weir::xds::v1::SnapshotMark { revision, phase: phase as i32, name: name.clone() };
    vec![(name, Any::pack(&mark))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_revision_is_not_served_when_its_server_goes_away_and_comes_back() {
    use proto::weir::xds::v1::snapshot_mark::Phase::{Begin, End};
    let (origins, (server, xds)) = ([origin(0).await, origin(1).await], Hostile::start().await);
    server.set(MARK, mark(1, Begin));
    server.set(LDS, vec![listener("")]);
    server.set(RDS, vec![to_app()]);
    let clusters = server.set(CDS, vec![cluster("app", origins[0], "")]);
    let proxy = proxy("one", xds, Api::Delta);
    server.accepted(RDS, &clusters).await;
    assert!(proxy.listener("web").is_none(), "it does not end before its end");
    server.set(MARK, mark(1, End));
    let to = address(&proxy, "web").await;

    let complete = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_complete = Arc::clone(&complete);
    let load = Load::start(to, move |answer| match answer.body.as_str() {
        "0 -" => Ok(()),
        "1 -" if is_complete.load(std::sync::atomic::Ordering::Relaxed) => Ok(()),
        _ => Err(format!("{answer:?}")),
    });
    server.set(MARK, mark(2, Begin));
    let half = server.set(CDS, vec![cluster("app", origins[1], "")]);
    server.accepted(CDS, &half).await;
    let before = proxy.snapshot().generation;
    server.cut();
    eventually("it comes again", || server.0.lock().expect("whole").stream.is_some()).await;
    server.accepted(MARK, &half).await;
    load.more().await;
    assert_eq!(proxy.snapshot().generation, before, "half a revision serves");
    complete.store(true, std::sync::atomic::Ordering::Relaxed);
    server.set(MARK, mark(2, End));
    eventually("the whole of it serves", || proxy.snapshot().revision == Some(2)).await;
    assert_eq!(get(to, "/").await.expect("an answer").body, "1 -");
    load.end().await;
}
