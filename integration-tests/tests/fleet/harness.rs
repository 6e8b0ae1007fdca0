//! Both planes in this process, real origins behind them, and clients that look at every answer.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use control_plane::Settings;
use control_plane::settings::Access;
use data_plane::{Options, Proxy};
use proto::weir::management::v1 as pb;
use proto::weir::management::v1::config_service_client::ConfigServiceClient;
use proto::weir::management::v1::fleet_service_client::FleetServiceClient;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// === the control plane ===

pub(crate) struct Plane {
    pub(crate) management: SocketAddr,
    pub(crate) xds: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    ended: JoinHandle<Result<(), String>>,
}

impl Plane {
    pub(crate) async fn start(folder: &Path, xds: SocketAddr) -> Self {
        Self::start_with(folder, xds, Access::InsecureLoopback).await
    }

    pub(crate) async fn start_with(folder: &Path, xds: SocketAddr, access: Access) -> Self {
        let settings = Settings {
            store: folder.join("weir.redb"),
            xds_address: xds,
            management_address: LOOPBACK,
            access,
            groups: Default::default(),
            load_interval: Duration::from_secs(1),
        };
        Self::of(settings).await
    }

    pub(crate) async fn of(settings: Settings) -> Self {
        let running = control_plane::start(settings).await.expect("starts");
        let (management, xds) = (running.management, running.xds);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let ended = tokio::spawn(running.until(async { drop(stopped.await) }));
        Self { management, xds, stop, ended }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.management)).expect("an address");
        endpoint.connect().await.expect("connects")
    }

    pub(crate) async fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub(crate) async fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel().await)
    }

    /// Applies a whole configuration; gives the number of the revision.
    pub(crate) async fn apply(&self, text: &str) -> u64 {
        let answer = self.config().await.apply(apply(text)).await;
        answer.unwrap_or_else(|status| panic!("{status:?}\n{text}")).into_inner().revision.expect("made").id
    }

    /// Waits until these nodes are connected and have what they are to have.
    pub(crate) async fn synced(&self, ids: &[&str], revision: u64) -> Vec<pb::Node> {
        let (mut fleet, since) = (self.fleet().await, Instant::now());
        loop {
            let nodes = fleet.list_nodes(pb::ListNodesRequest::default()).await.expect("works").into_inner().nodes;
            let is_synced = |id: &&str| nodes.iter().any(|node| node.id == **id && is_synced(node, revision));
            if ids.iter().all(is_synced) {
                return nodes;
            }
            assert!(since.elapsed() < PATIENCE, "{ids:?} are not at {revision}: {nodes:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("runs");
        self.ended.await.expect("ends").expect("cleanly");
    }
}

fn is_synced(node: &pb::Node, revision: u64) -> bool {
    let synced = |of: &pb::TypeStatus| of.status() == pb::SyncStatus::Synced;
    node.connected && node.revision == revision && node.types.len() >= 2 && node.types.iter().all(synced)
}

pub(crate) fn apply(text: &str) -> pb::ApplyRequest {
    let sources = vec![pb::Source { file_name: "fleet.yaml".into(), text: text.into() }];
    let change = pb::ChangeSet { sources, prune: true, ..Default::default() };
    pb::ApplyRequest { change: Some(change), ..Default::default() }
}

// === proxies ===

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Delta,
    Sotw,
}

/// A bootstrap that knows nothing but where the control plane is.
pub(crate) fn bootstrap(id: &str, xds: SocketAddr, api: Api, tls: &str) -> String {
    bootstrap_of("edge", id, xds, api, tls)
}

pub(crate) fn bootstrap_of(cluster: &str, id: &str, xds: SocketAddr, api: Api, tls: &str) -> String {
    let api = if api == Api::Delta { "DELTA_GRPC" } else { "GRPC" };
    let port = xds.port();
    format!(
        "node: {{ id: {id}, cluster: {cluster} }}
dynamic_resources:
  ads_config:
    api_type: {api}
    transport_api_version: V3
    grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}]
  cds_config: {{ resource_api_version: V3, ads: {{}} }}
  lds_config: {{ resource_api_version: V3, ads: {{}} }}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: xds
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
{tls}"
    )
}

pub(crate) fn start(bootstrap: &str, options: Options) -> Proxy {
    let read = shared_config::bootstrap::read(&[bootstrap]).unwrap_or_else(|wrong| panic!("{wrong:?}\n{bootstrap}"));
    Proxy::start(read, options).expect("starts")
}

pub(crate) fn proxy(id: &str, xds: SocketAddr, api: Api) -> Proxy {
    start(&bootstrap(id, xds, api, ""), Options::default())
}

/// Waits until a proxy serves a revision, which it acknowledges a moment before.
pub(crate) async fn serves(proxy: &Proxy, revision: u64) {
    eventually("the revision serves", || proxy.snapshot().revision == Some(revision)).await;
}

/// Where a listener of the proxy is, as soon as it is there.
pub(crate) async fn address(proxy: &Proxy, listener: &str) -> SocketAddr {
    eventually("the listener serves", || proxy.listener(listener).is_some()).await;
    proxy.listener(listener).expect("just seen").to_string().parse().expect("an address")
}

// === origins ===

/// Answers every request with its number and the header `x-rev` that it saw: `2 7`.
pub(crate) async fn origin(number: usize) -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, number));
        }
    });
    address
}

async fn answer(stream: TcpStream, number: usize) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut revision = String::from("-");
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(": ") {
                Some(("x-rev", value)) => revision = value.to_owned(),
                _ if line == "\r\n" => break,
                _ => {}
            }
        }
        let body = format!("{number} {revision}");
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.get_mut().write_all(text.as_bytes()).await?;
    }
}

// === clients ===

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The response header `x-rev`.
    pub(crate) revision: String,
    pub(crate) body: String,
    close: bool,
}

type Connection = BufReader<TcpStream>;

async fn connect(to: SocketAddr) -> std::io::Result<Connection> {
    Ok(BufReader::new(TcpStream::connect(to).await?))
}

async fn exchange(stream: &mut Connection, path: &str) -> std::io::Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: fleet.test\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).await?;
    let mut answer = Answer { status: 0, revision: String::from("-"), body: String::new(), close: false };
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if answer.status == 0 {
            answer.status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(1);
            continue;
        }
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap_or(0),
            Some(("x-rev", value)) => answer.revision = value.to_owned(),
            Some(("connection", "close")) => answer.close = true,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    answer.body = String::from_utf8_lossy(&body).into_owned();
    Ok(answer)
}

/// One request on a connection of its own.
pub(crate) async fn get(to: SocketAddr, path: &str) -> std::io::Result<Answer> {
    exchange(&mut connect(to).await?, path).await
}

/// Clients that never pause: half keep their connection, half make one for every request.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// `check` says what is wrong with an answer.
    pub(crate) fn start(
        to: SocketAddr,
        check: impl Fn(&Answer) -> Result<(), String> + Send + Clone + 'static,
    ) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |number: usize| {
            let (stop, answers, check) = (Arc::clone(&stop), Arc::clone(&answers), check.clone());
            tokio::spawn(async move {
                let (mut failures, mut connection) = (Vec::new(), None);
                while !stop.load(Relaxed) && failures.len() < 20 {
                    match step(&mut connection, to, number.is_multiple_of(2)).await {
                        Ok(answer) => failures.extend(check(&answer).err()),
                        Err(error) => failures.push(error.to_string()),
                    }
                    answers.fetch_add(1, Relaxed);
                    // Two cores are shared with both planes.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                failures
            })
        };
        let clients = (0..4).map(client).collect();
        Self { stop, answers, clients }
    }

    pub(crate) fn answers(&self) -> usize {
        self.answers.load(Relaxed)
    }

    /// Lets some more requests go by.
    pub(crate) async fn more(&self) {
        let before = self.answers();
        eventually("requests are answered", || self.answers() > before + 40).await;
    }

    /// Ends; nothing may have failed.
    pub(crate) async fn end(self) -> usize {
        self.stop.store(true, Relaxed);
        for client in self.clients {
            let failures = client.await.expect("ends");
            assert!(failures.is_empty(), "{failures:#?}");
        }
        self.answers.load(Relaxed)
    }
}

async fn step(connection: &mut Option<Connection>, to: SocketAddr, keep: bool) -> std::io::Result<Answer> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => connect(to).await?,
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), exchange(&mut stream, "/")).await??;
    if keep && !answer.close {
        *connection = Some(stream);
    }
    Ok(answer)
}

/// What is wrong unless the status is 200.
pub(crate) fn is_ok(answer: &Answer) -> Result<(), String> {
    if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
}
