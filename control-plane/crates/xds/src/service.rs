//! The discovery services as one handler with a table: which path is which type in which variant.

use std::convert::Infallible;
use std::future::Ready;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use cp_fleet::{Fleet, NodeInfo};
use prost::Message;
use proto::envoy::config::core::v3::ControlPlane;
use proto::envoy::service::load_stats::v3::load_reporting_service_server::LoadReportingServiceServer;
use proto::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use shared_xds::kind::{AGGREGATED, Service};
use shared_xds::server::Options;
use shared_xds::wire::{Request, Response};
use shared_xds::{Protocol, ResourceKind};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::service::Routes;
use tonic::{Status, Streaming};

use crate::codec::XdsCodec;
use crate::identity::Peer;
use crate::load::Loads;
use crate::publisher::Publisher;
use crate::status::ClientStatuses;
use crate::stream;

/// Says which group a node belongs to.
pub type Selector = Arc<dyn Fn(&NodeInfo) -> String + Send + Sync>;

/// Says whether a node may have what it asks for; the text goes to the client.
pub type Admit = Arc<dyn Fn(&Peer, &NodeInfo) -> Result<(), String> + Send + Sync>;

/// What the server's operator chose.
#[derive(Clone)]
pub struct Settings {
    pub selector: Selector,
    pub admit: Admit,
    /// What we call ourselves in every response.
    pub identifier: String,
    /// How long routes wait for the ACK of clusters, and removals for that of routes.
    pub gate: Duration,
    /// Streams end after about this time, so that clients spread anew; `None` keeps them.
    pub max_age: Option<Duration>,
    /// The largest message taken or sent.
    pub message_bytes: usize,
    /// Names one stream may subscribe to.
    pub names: usize,
    /// How often clients are asked to report load.
    pub load_interval: Duration,
}

impl Settings {
    /// Everybody is admitted and belongs to the group `name`.
    pub fn one_group(name: &str) -> Self {
        let name = name.to_owned();
        Self {
            selector: Arc::new(move |_| name.clone()),
            admit: Arc::new(|_, _| Ok(())),
            identifier: "weir-control".to_owned(),
            gate: Duration::from_secs(15),
            max_age: None,
            message_bytes: 64 << 20,
            names: 1 << 20,
            load_interval: Duration::from_secs(10),
        }
    }
}

/// What the server counts.
#[derive(Debug, Default)]
pub struct Counters {
    pub streams: AtomicU64,
    pub streams_total: AtomicU64,
    pub refused_streams: AtomicU64,
    pub requests: AtomicU64,
    pub responses: AtomicU64,
    pub acks: AtomicU64,
    pub nacks: AtomicU64,
    pub gate_timeouts: AtomicU64,
}

/// All services of the control plane that clients talk to. Cheap to clone.
#[derive(Clone)]
pub struct XdsServer {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) publisher: Publisher,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) settings: Settings,
    pub(crate) options: Arc<Options>,
    pub(crate) counters: Counters,
    pub(crate) reselect: watch::Sender<u64>,
    pub(crate) stopping: watch::Sender<bool>,
}

impl Shared {
    /// Resolves when the server stops.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as we do.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }
}

impl XdsServer {
    pub fn new(publisher: Publisher, fleet: Arc<Fleet>, settings: Settings) -> Self {
        let control_plane = ControlPlane { identifier: settings.identifier.clone() }.encode_to_vec().into();
        let options = Options { gate: settings.gate, names: settings.names, control_plane, ..Options::default() };
        let options = Arc::new(options);
        let (reselect, _) = watch::channel(0);
        let (stopping, _) = watch::channel(false);
        let counters = Counters::default();
        Self { shared: Arc::new(Shared { publisher, fleet, settings, options, counters, reselect, stopping }) }
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Asks the selector again for every stream; those whose group changed get the difference.
    pub fn reselect(&self) {
        self.shared.reselect.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Ends every stream in good order; clients go on with what they have and look for another server.
    pub fn stop(&self) {
        self.shared.stopping.send_replace(true);
    }

    /// Every service, ready to be served or put beside others.
    pub fn routes(&self) -> Routes {
        let most = self.shared.settings.message_bytes;
        let statuses = ClientStatusDiscoveryServiceServer::new(ClientStatuses(self.shared.clone()));
        let loads = LoadReportingServiceServer::new(Loads(self.shared.clone()));
        let mut routes = Routes::builder();
        routes
            .add_service(statuses.max_decoding_message_size(most).max_encoding_message_size(most))
            .add_service(loads.max_decoding_message_size(most));
        discovery_services!(routes, self);
        routes.routes()
    }
}

/// One type per service name, since tonic wants the name as a constant of the type.
macro_rules! discovery_services {
    ($routes:ident, $server:ident) => {
        discovery_services!($routes, $server,
            Aggregated "envoy.service.discovery.v3.AggregatedDiscoveryService",
            Clusters "envoy.service.cluster.v3.ClusterDiscoveryService",
            Endpoints "envoy.service.endpoint.v3.EndpointDiscoveryService",
            Listeners "envoy.service.listener.v3.ListenerDiscoveryService",
            RouteConfigurations "envoy.service.route.v3.RouteDiscoveryService",
            ScopedRoutes "envoy.service.route.v3.ScopedRoutesDiscoveryService",
            VirtualHosts "envoy.service.route.v3.VirtualHostDiscoveryService",
            Secrets "envoy.service.secret.v3.SecretDiscoveryService",
            Runtimes "envoy.service.runtime.v3.RuntimeDiscoveryService",
            Extensions "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        )
    };
    ($routes:ident, $server:ident, $($name:ident $service:literal,)*) => {$(
        #[derive(Clone)]
        struct $name(Discovery);
        impl NamedService for $name {
            const NAME: &'static str = $service;
        }
        impl tower::Service<http::Request<Body>> for $name {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;
            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }
            fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                self.0.call(request)
            }
        }
        $routes.add_service($name(Discovery($server.shared.clone())));
    )*};
}
use discovery_services;

/// The handler behind every discovery service.
#[derive(Clone)]
struct Discovery(Arc<Shared>);

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Discovery {
    fn call(&self, request: http::Request<Body>) -> Answer {
        let Some((fixed, protocol)) = method(request.uri().path()) else {
            return Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) });
        };
        let call = Call { shared: self.0.clone(), fixed, protocol };
        let most = self.0.settings.message_bytes;
        Box::pin(async move {
            let grpc = Grpc::new(XdsCodec(protocol)).apply_max_message_size_config(Some(most), Some(most));
            let mut grpc = grpc;
            Ok(grpc.streaming(call, request).await)
        })
    }
}

/// The type and variant behind `/service/method`; no type means all of them.
fn method(path: &str) -> Option<(Option<ResourceKind>, Protocol)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let of = |kind: Option<ResourceKind>, row: Service| {
        if row.name != service {
            None
        } else if row.sotw == Some(method) {
            Some((kind, Protocol::Sotw))
        } else if row.delta == Some(method) {
            Some((kind, Protocol::Delta))
        } else {
            None
        }
    };
    let single = ResourceKind::PUSH_ORDER.into_iter().find_map(|kind| of(Some(kind), kind.service()?));
    single.or_else(|| of(None, AGGREGATED))
}

/// One call of a discovery method.
struct Call {
    shared: Arc<Shared>,
    fixed: Option<ResourceKind>,
    protocol: Protocol,
}

impl StreamingService<Request> for Call {
    type Response = Response;
    type ResponseStream = ReceiverStream<Result<Response, Status>>;
    type Future = Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Request>>) -> Self::Future {
        let peer = Peer::of(&request);
        // Room for one: the next response is made when this one is on its way.
        let (out, responses) = mpsc::channel(1);
        let stream = stream::Stream::new(self.shared.clone(), self.protocol, self.fixed, peer);
        tokio::spawn(stream.run(request.into_inner(), out));
        std::future::ready(Ok(tonic::Response::new(ReceiverStream::new(responses))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_table_is_found() {
        let all = ResourceKind::PUSH_ORDER.into_iter().filter_map(|kind| Some((Some(kind), kind.service()?)));
        for (kind, row) in all.chain([(None, AGGREGATED)]) {
            for (name, protocol) in [(row.sotw, Protocol::Sotw), (row.delta, Protocol::Delta)] {
                if let Some(name) = name {
                    assert_eq!(method(&format!("/{}/{name}", row.name)), Some((kind, protocol)));
                }
            }
        }
        assert_eq!(method("/envoy.service.route.v3.RouteDiscoveryService/Fetch"), None);
        assert_eq!(method("/x"), None);
    }
}
