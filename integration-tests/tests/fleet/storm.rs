//! Ten thousand delta streams that open at once: each is served, and later gets what changed and no more.
//!
//! Asserts counts, never times; the figures are printed (`--nocapture`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::envoy::config::core::v3::Node;
use proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::harness::*;

const CONNECTIONS: usize = 100;
const STREAMS: usize = 100;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// A node that took its responses, and how many resources of each type came.
type Took = Result<(Subscriber, BTreeMap<String, usize>), tonic::Status>;

/// One node: its requests and its responses.
struct Subscriber {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
}

impl Subscriber {
    async fn open(mut client: AggregatedDiscoveryServiceClient<Channel>, id: String) -> Result<Self, tonic::Status> {
        let (requests, queue) = mpsc::unbounded_channel();
        let node = Node { id, cluster: "edge".into(), ..Default::default() };
        for (node, kind) in [(Some(node), CLUSTER), (None, LISTENER)] {
            let request = DeltaDiscoveryRequest { node, type_url: kind.into(), ..Default::default() };
            requests.send(request).expect("open");
        }
        let queue = tokio_stream::wrappers::UnboundedReceiverStream::new(queue);
        let responses = client.delta_aggregated_resources(queue).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// Takes so many responses; says how many resources of each type came.
    async fn take(mut self, count: usize) -> Took {
        let mut came = BTreeMap::new();
        for _ in 0..count {
            let response = self.responses.message().await?.ok_or_else(|| tonic::Status::aborted("ended"))?;
            *came.entry(response.type_url.clone()).or_default() += response.resources.len();
            let acknowledged = DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                ..Default::default()
            };
            self.requests.send(acknowledged).expect("open");
        }
        Ok((self, came))
    }
}

/// Waits for all nodes, each of which gets just this.
async fn all(mut taking: JoinSet<Took>, what: &str, expected: &[(&str, usize)]) -> Vec<Subscriber> {
    let expected: BTreeMap<String, usize> = expected.iter().map(|&(kind, count)| (kind.to_owned(), count)).collect();
    let mut nodes = Vec::new();
    let collecting = async {
        while let Some(took) = taking.join_next().await {
            let (node, came) = took.expect("ends").expect("served");
            assert_eq!(came, expected);
            nodes.push(node);
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(240), collecting).await;
    assert!(in_time.is_ok(), "{} of {} streams {what}", nodes.len(), CONNECTIONS * STREAMS);
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr)] // figures are for people
async fn ten_thousand_streams_that_open_at_once_are_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = Plane::start(folder.path(), LOOPBACK).await;
    let text = |policy: &str| {
        format!(
            "listeners:\n  web: \"127.0.0.1:0\"\nroutes:\n  - to: a\nclusters:\n  a: {{ endpoints: [\"127.0.0.1:9\"], \
             balance: {policy} }}\n  b: [\"127.0.0.1:9\"]\n"
        )
    };
    plane.apply(&text("round_robin")).await;

    let since = Instant::now();
    let mut opening = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let endpoint = Channel::from_shared(format!("http://{}", plane.xds)).expect("an address");
        let client = AggregatedDiscoveryServiceClient::new(endpoint.connect().await.expect("connects"));
        for stream in 0..STREAMS {
            let client = client.clone();
            opening.spawn(async move {
                let node = Subscriber::open(client, format!("node-{connection}-{stream}")).await?;
                node.take(2).await
            });
        }
    }
    let nodes = all(opening, "were served", &[(CLUSTER, 2), (LISTENER, 1)]).await;
    eprintln!("{} streams served in {:?}", nodes.len(), since.elapsed());

    // One cluster of two changes: it alone goes out, once to each.
    let since = Instant::now();
    plane.apply(&text("random")).await;
    let mut taking = JoinSet::new();
    for node in nodes {
        taking.spawn(node.take(1));
    }
    let nodes = all(taking, "got the change", &[(CLUSTER, 1)]).await;
    eprintln!("one change reached all in {:?}", since.elapsed());
    drop(nodes);
    plane.stop().await;
}
