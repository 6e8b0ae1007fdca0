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

/// One node: its requests, its responses, and the names it got.
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

    /// Takes so many responses; gives how many resources of each type came.
    async fn take(&mut self, count: usize) -> Result<BTreeMap<String, usize>, tonic::Status> {
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
        Ok(came)
    }
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
                let mut node = Subscriber::open(client, format!("node-{connection}-{stream}")).await?;
                let came = node.take(2).await?;
                Ok::<_, tonic::Status>((node, came))
            });
        }
    }
    let mut nodes = Vec::new();
    let all = async {
        while let Some(opened) = opening.join_next().await {
            let (node, came) = opened.expect("ends").expect("served");
            assert_eq!(came.values().copied().collect::<Vec<_>>(), [2, 1], "{came:?}");
            nodes.push(node);
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(240), all).await;
    assert!(in_time.is_ok(), "{} of {} streams were served", nodes.len(), CONNECTIONS * STREAMS);
    eprintln!("{} streams served in {:?}", nodes.len(), since.elapsed());

    // One cluster of two changes: it alone goes out, once to each.
    let since = Instant::now();
    plane.apply(&text("random")).await;
    let mut taking = JoinSet::new();
    for mut node in nodes {
        taking.spawn(async move {
            let came = node.take(1).await?;
            Ok::<_, tonic::Status>((node, came))
        });
    }
    let mut nodes = Vec::new();
    let all = async {
        while let Some(taken) = taking.join_next().await {
            let (node, came) = taken.expect("ends").expect("served");
            assert_eq!(came, BTreeMap::from([(CLUSTER.to_owned(), 1)]));
            nodes.push(node);
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(240), all).await;
    assert!(in_time.is_ok(), "{} of {} streams got the change", nodes.len(), CONNECTIONS * STREAMS);
    eprintln!("one change reached all in {:?}", since.elapsed());
    drop(nodes);
    plane.stop().await;
}
