//! One discovery stream: the node at its start, then requests and snapshots in, responses out.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use cp_fleet::{Connection, NodeInfo};
use prost::Message;
use proto::envoy::config::core::v3::Node;
use shared_xds::server::{Close, Observed, Session};
use shared_xds::wire::{Request, Response};
use shared_xds::{Protocol, ResourceKind, Snapshot};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use crate::identity::Peer;
use crate::service::Shared;

type Out = mpsc::Sender<Result<Response, Status>>;
type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

// A client that opens a stream and says nothing is not kept.
const FIRST_REQUEST: Duration = Duration::from_secs(30);

/// What a node says of itself is kept, for a while even after it is gone. Stock Envoy sends 60 KB.
const MAX_NODE: usize = 1 << 20;
/// Of a refusal, in the log.
const MAX_REASON: usize = 8 << 10;

pub(crate) struct Stream {
    shared: Arc<Shared>,
    protocol: Protocol,
    fixed: Option<ResourceKind>,
    peer: Peer,
}

/// A stream whose client is known.
struct Known {
    session: Session,
    info: Arc<NodeInfo>,
    group: String,
    connection: Connection,
    snapshots: Snapshots,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NodeId {
    #[prost(string, tag = "1")]
    id: String,
}

impl Stream {
    pub(crate) fn new(shared: Arc<Shared>, protocol: Protocol, fixed: Option<ResourceKind>, peer: Peer) -> Self {
        Self { shared, protocol, fixed, peer }
    }

    pub(crate) async fn run(self, inbound: Streaming<Request>, out: Out) {
        let counters = &self.shared.counters;
        counters.streams.fetch_add(1, Relaxed);
        counters.streams_total.fetch_add(1, Relaxed);
        if let Err(status) = self.serve(inbound, &out).await {
            tracing::info!(peer = ?self.peer.address, code = ?status.code(), reason = status.message(), "xds stream ends");
            if status.code() != tonic::Code::Cancelled {
                // The client may be gone already.
                let _ = out.send(Err(status)).await;
            }
        }
        counters.streams.fetch_sub(1, Relaxed);
    }

    async fn serve(&self, mut inbound: Streaming<Request>, out: &Out) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_REQUEST, inbound.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no request came"))??;
        let Some(first) = first else {
            return Ok(());
        };
        let mut known = self.meet(&first).inspect_err(|_| {
            self.shared.counters.refused_streams.fetch_add(1, Relaxed);
        })?;
        self.take(&mut known, first)?;

        let mut reselect = self.shared.reselect.subscribe();
        let age = self.shared.settings.max_age.map(jittered);
        let end = tokio::time::sleep(age.unwrap_or(Duration::from_secs(u64::from(u32::MAX))));
        tokio::pin!(end);
        let stopped = self.shared.stopped();
        tokio::pin!(stopped);
        let mut idle = false;
        loop {
            let deadline = known.session.deadline();
            tokio::select! {
                permit = out.reserve(), if !idle => {
                    let permit = permit.map_err(|_| Status::cancelled("the client is gone"))?;
                    match known.session.poll(Instant::now()) {
                        Some(response) => {
                            self.shared.counters.responses.fetch_add(1, Relaxed);
                            permit.send(Ok(response));
                        }
                        None => idle = true,
                    }
                    self.note(&mut known);
                }
                request = inbound.message() => {
                    let Some(request) = request? else {
                        return Ok(());
                    };
                    self.take(&mut known, request)?;
                    idle = false;
                }
                changed = known.snapshots.changed() => {
                    changed.map_err(|_| Status::unavailable("the control plane is stopping"))?;
                    known.show();
                    idle = false;
                }
                _ = reselect.changed() => {
                    self.regroup(&mut known);
                    idle = false;
                }
                () = until(deadline), if idle && deadline.is_some() => idle = false,
                () = &mut end, if age.is_some() => return Ok(()),
                () = &mut stopped => return Ok(()),
                () = out.closed() => return Ok(()),
            }
        }
    }

    /// Learns who the client is from its first request.
    fn meet(&self, first: &Request) -> Result<Known, Status> {
        let node =
            first.node().ok_or_else(|| Status::invalid_argument("the first request of a stream needs a node"))?;
        if node.len() > MAX_NODE {
            let reason = format!("a node of {} bytes, more than {MAX_NODE}", node.len());
            return Err(Status::resource_exhausted(reason));
        }
        let node = Node::decode(node.clone()).map_err(|error| Status::invalid_argument(format!("node: {error}")))?;
        let info = self.shared.fleet.identify(node);
        (self.shared.settings.admit)(&self.peer, &info).map_err(Status::permission_denied)?;
        let group = (self.shared.settings.selector)(&info);
        let connection = self.shared.fleet.connect(info.clone(), &group, SystemTime::now());
        let connection = connection.map_err(|full| Status::resource_exhausted(full.to_string()))?;
        let mut session = Session::new(self.protocol, self.fixed, self.shared.options.clone());
        if info.has_feature("xds.config.resource-in-sotw") {
            session.wrap_resources();
        }
        let snapshots = self.shared.publisher.watch(&group, info.class);
        tracing::debug!(node = info.id, group, class = info.class.as_str(), protocol = ?self.protocol, "xds stream opens");
        let mut known = Known { session, info, group, connection, snapshots };
        known.show();
        Ok(known)
    }

    fn take(&self, known: &mut Known, request: Request) -> Result<(), Status> {
        self.shared.counters.requests.fetch_add(1, Relaxed);
        if let Some(node) = request.node() {
            known.is_the_same(node)?;
        }
        known.session.on_request(request).map_err(|close| match close {
            Close::TooManyNames(_) | Close::LongNames(_) => Status::resource_exhausted(close.to_string()),
            _ => Status::invalid_argument(close.to_string()),
        })?;
        self.note(known);
        Ok(())
    }

    fn note(&self, known: &mut Known) {
        let observed = known.session.observed();
        let counters = &self.shared.counters;
        for event in &observed {
            match event {
                Observed::Acked { .. } => counters.acks.fetch_add(1, Relaxed),
                Observed::Nacked { kind, message, .. } => {
                    let message = &message[..message.floor_char_boundary(MAX_REASON)];
                    tracing::warn!(node = known.info.id, %kind, message, "a node refused its configuration");
                    counters.nacks.fetch_add(1, Relaxed)
                }
                Observed::GateTimeout { .. } => counters.gate_timeouts.fetch_add(1, Relaxed),
                Observed::Sent { .. } | Observed::InSync { .. } | Observed::Settled { .. } => 0,
            };
        }
        known.connection.observe(&observed, SystemTime::now());
    }

    fn regroup(&self, known: &mut Known) {
        let group = (self.shared.settings.selector)(&known.info);
        if group != known.group {
            known.snapshots = self.shared.publisher.watch(&group, known.info.class);
            known.connection.regroup(&group);
            known.group = group;
            known.show();
        }
    }
}

impl Known {
    fn show(&mut self) {
        let snapshot = self.snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            self.session.publish(snapshot, Instant::now());
        }
    }

    /// Later copies of the node are not looked at, but they must not be of another one.
    fn is_the_same(&self, node: &Bytes) -> Result<(), Status> {
        let node = NodeId::decode(node.clone()).map_err(|error| Status::invalid_argument(format!("node: {error}")))?;
        if node.id.is_empty() || node.id == self.info.id {
            return Ok(());
        }
        Err(Status::invalid_argument(format!("this stream was opened by {:?}, not {:?}", self.info.id, node.id)))
    }
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}

/// Within a fifth of `age`, so that streams that began together do not end together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.8 + 0.4 * fastrand::f64())
}
