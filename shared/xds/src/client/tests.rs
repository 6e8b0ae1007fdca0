//! One client alone, and client and server back to back under random interleavings.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;
use proto::Any;
use proto::envoy::config::cluster::v3::Cluster;
use proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource as Envelope};

use super::*;
use crate::ResourceKind::{Endpoints, Route};
use crate::server::{Options, Session};
use crate::{Resource, Snapshot, Version, wire};

const CDS: ResourceKind = ResourceKind::Cluster;

fn cluster(name: &str, content: u32) -> Any {
    let per_connection_buffer_limit_bytes = Some(content);
    Any::pack(&Cluster { name: name.to_owned(), per_connection_buffer_limit_bytes, ..Default::default() })
}

fn loads(name: &str, content: u32) -> Any {
    let policy = proto::envoy::config::endpoint::v3::cluster_load_assignment::Policy {
        overprovisioning_factor: Some(content),
        ..Default::default()
    };
    Any::pack(&ClusterLoadAssignment { cluster_name: name.to_owned(), policy: Some(policy), ..Default::default() })
}

fn envelope(name: &str, version: &str, resource: Any) -> Envelope {
    Envelope { name: name.to_owned(), version: version.to_owned(), resource: Some(resource), ..Default::default() }
}

fn response(nonce: &str, resources: Vec<Envelope>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: CDS.type_url().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn open(protocol: Protocol) -> Client {
    let mut client = Client::new(protocol, Some(Duration::from_secs(15)));
    client.want(CDS, Interest::all(), Instant::now());
    client.connected();
    assert!(client.poll().is_some());
    assert_eq!(client.poll(), None);
    client
}

fn next_delta(client: &mut Client) -> DeltaDiscoveryRequest {
    match client.poll() {
        Some(Request::Delta(request)) => request,
        other => panic!("no delta request but {other:?}"),
    }
}

fn next_sotw(client: &mut Client) -> DiscoveryRequest {
    match client.poll() {
        Some(Request::Sotw(request)) => request,
        other => panic!("no request but {other:?}"),
    }
}

#[test]
fn each_fault_of_a_resource_refuses_only_that_resource() {
    let check = |resources: Vec<Envelope>, removed: &[&str], reason: &str| {
        let mut client = open(Protocol::Delta);
        let mut all = vec![envelope("good", "1", cluster("good", 1))];
        all.extend(resources);
        let received = client.on_delta(response("n", all, removed), Instant::now()).expect("subscribed");
        assert_eq!(received.upserts.iter().map(|item| &*item.name).next(), Some("good"));
        let refused = client.settle(CDS, Vec::new());
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].1.contains(reason), "{refused:?}");
        assert!(!refusal_text(&refused).contains("(:"), "{refused:?}");
        assert_eq!(client.held(CDS).keys().collect::<Vec<_>>(), ["good"]);
        let request = next_delta(&mut client);
        assert_eq!(request.response_nonce, "n");
        let error = request.error_detail.expect("a refusal");
        assert_eq!((error.code, error.message), (3, refusal_text(&refused)));
    };
    check(vec![envelope("zzz", "1", cluster("yyy", 1))], &[], "holds the name \"yyy\"");
    check(vec![envelope("x", "1", loads("x", 1))], &[], "not a envoy.config.cluster.v3.Cluster");
    check(vec![envelope("good", "2", cluster("good", 2))], &[], "more than once");
    check(vec![envelope("", "1", cluster("", 1))], &[], "has no name");
    let broken = Any { type_url: CDS.type_url().to_owned(), value: vec![0x0a, 9, 1].into() };
    check(vec![envelope("x", "1", broken)], &[], "not decodable");
}

#[test]
fn a_resource_without_a_readable_name_may_be_any_so_that_nothing_is_taken_for_gone() {
    let mut client = open(Protocol::Sotw);
    let say = |nonce: &str, resources: Vec<Any>| DiscoveryResponse {
        type_url: CDS.type_url().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        ..Default::default()
    };
    client.on_sotw(say("1", vec![cluster("a", 1), cluster("b", 1)]), Instant::now()).expect("subscribed");
    client.settle(CDS, Vec::new());
    let broken = Any { type_url: CDS.type_url().to_owned(), value: vec![0xff].into() };
    let received = client.on_sotw(say("2", vec![cluster("b", 2), broken]), Instant::now()).expect("subscribed");
    assert!(received.removed.is_empty(), "{received:?}");
    let refused = client.settle(CDS, Vec::new());
    assert!(refusal_text(&refused).starts_with("(resources[1]: not decodable"), "{refused:?}");
    let received = client.on_sotw(say("3", vec![cluster("b", 2)]), Instant::now()).expect("subscribed");
    assert_eq!(received.removed, ["a"]);
}

#[test]
fn a_name_both_updated_and_removed_is_refused() {
    let mut client = open(Protocol::Delta);
    let both = response("n", vec![envelope("a", "1", cluster("a", 1))], &["a"]);
    let received = client.on_delta(both, Instant::now()).expect("subscribed");
    assert!(received.upserts.is_empty() && received.removed.is_empty());
    assert_eq!(client.settle(CDS, Vec::new())[0].1, "is both updated and removed");
}

#[test]
fn what_the_caller_refuses_keeps_its_last_good_version() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let mut client = open(protocol);
        for (content, refused) in [(1, false), (2, true)] {
            let any = cluster("a", content);
            let version = Version::of(&any.value).to_string();
            match protocol {
                Protocol::Delta => {
                    let resources = vec![envelope("a", &version, any)];
                    client.on_delta(response(&content.to_string(), resources, &[]), Instant::now()).expect("ours");
                }
                Protocol::Sotw => {
                    let response = DiscoveryResponse {
                        version_info: content.to_string(),
                        type_url: CDS.type_url().to_owned(),
                        nonce: content.to_string(),
                        resources: vec![any],
                        ..Default::default()
                    };
                    client.on_sotw(response, Instant::now()).expect("ours");
                }
            }
            // Nothing is said between a state-of-the-world response and its answer.
            assert_eq!(client.poll(), None);
            client.settle(CDS, if refused { vec![("a".to_owned(), "bad".to_owned())] } else { Vec::new() });
            match client.poll().expect("an answer") {
                Request::Delta(request) => assert_eq!(request.error_detail.is_some(), refused),
                Request::Sotw(request) => {
                    assert_eq!((&*request.version_info, request.error_detail.is_some()), ("1", refused))
                }
            }
        }
        assert_eq!(client.held(CDS)["a"], Version::of(&cluster("a", 1).value).to_string());
    }
}

#[test]
fn a_new_stream_opens_with_what_is_held_and_without_a_nonce() {
    let mut client = open(Protocol::Delta);
    client.on_delta(response("n", vec![envelope("a", "7", cluster("a", 1))], &[]), Instant::now()).expect("ours");
    client.settle(CDS, Vec::new());
    client.disconnected();
    assert_eq!(client.poll(), None);
    client.connected();
    let request = next_delta(&mut client);
    assert_eq!(request.initial_resource_versions, [("a".to_owned(), "7".to_owned())].into());
    assert!(request.response_nonce.is_empty() && request.resource_names_subscribe.is_empty());

    let mut client = open(Protocol::Sotw);
    let answer = DiscoveryResponse {
        version_info: "7".to_owned(),
        type_url: CDS.type_url().to_owned(),
        nonce: "n".to_owned(),
        ..Default::default()
    };
    client.on_sotw(answer, Instant::now()).expect("ours");
    client.settle(CDS, Vec::new());
    client.connected();
    let request = next_sotw(&mut client);
    assert_eq!((&*request.version_info, &*request.response_nonce), ("7", ""));
}

#[test]
fn a_response_of_a_type_not_asked_for_is_dropped() {
    let mut client = open(Protocol::Delta);
    let other = DeltaDiscoveryResponse { type_url: Route.type_url().to_owned(), ..Default::default() };
    assert_eq!(client.on_delta(other, Instant::now()), None);
    assert_eq!(client.poll(), None);
}

#[test]
fn an_unsubscription_and_an_ack_share_a_request() {
    let now = Instant::now();
    let mut client = open(Protocol::Delta);
    client.want(Endpoints, Interest::named(["a", "b"]), now);
    assert_eq!(next_delta(&mut client).resource_names_subscribe, ["a", "b"]);
    client.want(Endpoints, Interest::named(["b", "c"]), now);
    let answer = DeltaDiscoveryResponse {
        type_url: Endpoints.type_url().to_owned(),
        nonce: "n".to_owned(),
        ..Default::default()
    };
    client.on_delta(answer, now).expect("ours");
    client.settle(Endpoints, Vec::new());
    let request = next_delta(&mut client);
    assert_eq!(request.resource_names_subscribe, ["c"]);
    assert_eq!(request.resource_names_unsubscribe, ["a"]);
    assert_eq!(request.response_nonce, "n");
    assert_eq!(client.poll(), None);
}

#[test]
fn a_lifetime_ends_unless_it_is_confirmed() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let ttl = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    let mut client = open(Protocol::Delta);
    let mortal = Envelope { ttl, ..envelope("a", "1", cluster("a", 1)) };
    client.on_delta(response("n", vec![mortal], &[]), start).expect("ours");
    client.settle(CDS, Vec::new());
    let heartbeat = Envelope { name: "a".to_owned(), version: "1".to_owned(), ttl, ..Default::default() };
    let beat = client.on_delta(response("n", vec![heartbeat], &[]), start + second).expect("ours");
    assert!(beat.upserts.is_empty() && beat.removed.is_empty());
    client.settle(CDS, Vec::new());
    assert!(client.expired(start + second * 2).is_empty());
    assert_eq!(client.expired(start + second * 3), [(CDS, vec!["a".to_owned()])]);
    assert!(client.held(CDS).is_empty());
}

#[test]
fn a_lifetime_beyond_all_clocks_does_not_end() {
    let start = Instant::now();
    let mut client = open(Protocol::Delta);
    let ttl = Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 });
    let eternal = Envelope { ttl, ..envelope("a", "1", cluster("a", 1)) };
    client.on_delta(response("n", vec![eternal], &[]), start).expect("ours");
    client.settle(CDS, Vec::new());
    assert!(client.expired(start + Duration::from_secs(1 << 32)).is_empty());
}

#[test]
fn waiting_ends_with_an_answer_a_removal_or_the_timeout() {
    let start = Instant::now();
    let mut client = open(Protocol::Delta);
    client.want(Endpoints, Interest::named(["there", "gone", "silent"]), start);
    assert!(client.poll().is_some());
    let answer = DeltaDiscoveryResponse {
        type_url: Endpoints.type_url().to_owned(),
        resources: vec![envelope("there", "1", loads("there", 1))],
        removed_resources: vec!["gone".to_owned()],
        ..Default::default()
    };
    client.on_delta(answer, start).expect("ours");
    let late = start + Duration::from_secs(16);
    assert_eq!(client.timed_out(late), [(CDS, vec![String::new()]), (Endpoints, vec!["silent".to_owned()])]);
    assert!(client.timed_out(late).is_empty());
}

#[test]
fn a_refusal_is_cut_at_four_kilobytes_and_between_characters() {
    let long = vec![("a".to_owned(), "é".repeat(5000)), ("b".to_owned(), "x".to_owned())];
    let text = refusal_text(&long);
    assert!(text.len() <= REFUSAL_BYTES && text.ends_with("..."), "{}", text.len());
    assert_eq!(
        refusal_text(&[("a".to_owned(), "bad".to_owned()), ("b".to_owned(), "worse".to_owned())]),
        "(a: bad) (b: worse)"
    );
}

#[test]
fn a_name_dropped_and_wanted_again_before_a_request_was_never_dropped() {
    let now = Instant::now();
    let mut client = open(Protocol::Delta);
    client.want(Endpoints, Interest::named(["a"]), now);
    assert!(client.poll().is_some());
    client.want(Endpoints, Interest::default(), now);
    let resources = vec![envelope("a", "1", loads("a", 1))];
    let answer = DeltaDiscoveryResponse { type_url: Endpoints.type_url().to_owned(), resources, ..Default::default() };
    assert_eq!(client.on_delta(answer, now).expect("ours").upserts.len(), 1);
    client.settle(Endpoints, Vec::new());
    client.want(Endpoints, Interest::named(["a"]), now);
    assert!(client.held(Endpoints).contains_key("a"));
    client.want(Endpoints, Interest::default(), now);
    assert_eq!(next_delta(&mut client).resource_names_unsubscribe, ["a"]);
    assert!(client.held(Endpoints).is_empty());
}

#[test]
fn a_mark_is_read_in_both_variants_and_never_held() {
    use crate::mark::{Mark, name};
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let name = name([CDS]);
        let now = Instant::now();
        let mut client = Client::new(protocol, None);
        client.want(ResourceKind::SnapshotMark, Interest::named([name.clone()]), now);
        client.connected();
        assert!(client.poll().is_some());
        let type_url = ResourceKind::SnapshotMark.type_url().to_owned();
        let any = Mark::End(7).pack(&name);
        let received = match protocol {
            Protocol::Delta => {
                let resources = vec![envelope(&name, "1", any)];
                client.on_delta(DeltaDiscoveryResponse { type_url, resources, ..Default::default() }, now)
            }
            Protocol::Sotw => {
                client.on_sotw(DiscoveryResponse { type_url, resources: vec![any], ..Default::default() }, now)
            }
        };
        let received = received.expect("subscribed");
        assert_eq!(Mark::unpack(&received.upserts[0].any), Ok(Mark::End(7)));
        assert_eq!(client.settle(ResourceKind::SnapshotMark, Vec::new()), []);
        assert!(client.held(ResourceKind::SnapshotMark).is_empty());
    }
}

// === back to back ===

#[derive(Debug, Clone)]
enum Op {
    Publish(Vec<(u8, u32)>, Vec<(u8, u32)>),
    Want(BTreeSet<u8>),
    ClientSends,
    ServerReads,
    ServerSends,
    ClientReads,
    Reconnect,
}

fn op() -> impl Strategy<Value = Op> {
    let set = || prop::collection::btree_map(0u8..5, 0u32..4, 0..5).prop_map(|map| map.into_iter().collect::<Vec<_>>());
    prop_oneof![
        2 => (set(), set()).prop_map(|(clusters, loads)| Op::Publish(clusters, loads)),
        2 => prop::collection::btree_set(0u8..5, 0..5).prop_map(Op::Want),
        4 => Just(Op::ClientSends),
        4 => Just(Op::ServerReads),
        4 => Just(Op::ServerSends),
        4 => Just(Op::ClientReads),
        1 => Just(Op::Reconnect),
    ]
}

/// A client and a server with the wire between them as two queues.
struct Pair {
    protocol: Protocol,
    client: Client,
    session: Session,
    snapshot: Arc<Snapshot>,
    up: VecDeque<Vec<u8>>,
    down: VecDeque<Vec<u8>>,
    now: Instant,
    /// What the client was told, as a consumer keeps it.
    view: BTreeMap<(ResourceKind, String), Any>,
}

impl Pair {
    fn new(protocol: Protocol) -> Self {
        let now = Instant::now();
        let mut client = Client::new(protocol, None);
        client.want(CDS, Interest::all(), now);
        client.connected();
        let session = Session::new(protocol, None, Arc::new(Options::default()));
        let (up, down) = (VecDeque::new(), VecDeque::new());
        let mut pair =
            Self { protocol, client, session, snapshot: Arc::default(), up, down, now, view: BTreeMap::new() };
        pair.session.publish(pair.snapshot.clone(), now);
        pair
    }

    fn apply(&mut self, op: &Op) -> bool {
        match op {
            Op::Publish(clusters, endpoints) => {
                let refresh = |name: &str| vec![(Endpoints, Arc::from(name))];
                let clusters = clusters.iter().map(|(name, content)| {
                    let name = name.to_string();
                    Resource::new(cluster(&name, *content)).expect("valid").with_refresh(refresh(&name))
                });
                let endpoints = endpoints.iter().map(|(n, c)| Resource::new(loads(&n.to_string(), *c)).expect("valid"));
                let next = Snapshot::following(&self.snapshot, self.snapshot.revision + 1, clusters.chain(endpoints));
                self.snapshot = Arc::new(next);
                self.session.publish(self.snapshot.clone(), self.now);
            }
            Op::Want(names) => {
                let interest = Interest::named(names.iter().map(u8::to_string));
                self.client.want(Endpoints, interest, self.now);
            }
            Op::ClientSends => {
                match self.client.poll() {
                    Some(Request::Sotw(request)) => self.up.push_back(request.encode_to_vec()),
                    Some(Request::Delta(request)) => self.up.push_back(request.encode_to_vec()),
                    None => return false,
                }
                self.forget();
            }
            Op::ServerReads => match self.up.pop_front() {
                Some(bytes) => {
                    let request = match self.protocol {
                        Protocol::Sotw => wire::Request::Sotw(Message::decode(&bytes[..]).expect("ours")),
                        Protocol::Delta => wire::Request::Delta(Message::decode(&bytes[..]).expect("ours")),
                    };
                    self.session.on_request(request).expect("fair");
                }
                None => return false,
            },
            Op::ServerSends => match self.session.poll(self.now) {
                Some(response) => {
                    let mut bytes = Vec::new();
                    response.encode(&mut bytes);
                    self.down.push_back(bytes);
                }
                None => return false,
            },
            Op::ClientReads => return self.read(),
            Op::Reconnect => {
                self.up.clear();
                self.down.clear();
                self.client.connected();
                self.forget();
                self.session = Session::new(self.protocol, None, Arc::new(Options::default()));
                self.session.publish(self.snapshot.clone(), self.now);
            }
        }
        true
    }

    /// A consumer drops what the client no longer holds.
    fn forget(&mut self) {
        let client = &self.client;
        self.view.retain(|(kind, name), _| client.held(*kind).contains_key(name));
    }

    fn read(&mut self) -> bool {
        let Some(bytes) = self.down.pop_front() else {
            return false;
        };
        let received = match self.protocol {
            Protocol::Sotw => self.client.on_sotw(Message::decode(&bytes[..]).expect("ours"), self.now),
            Protocol::Delta => self.client.on_delta(Message::decode(&bytes[..]).expect("ours"), self.now),
        };
        let received = received.expect("subscribed");
        for item in received.upserts {
            self.view.insert((received.kind, item.name), item.any);
        }
        for name in received.removed {
            self.view.remove(&(received.kind, name));
        }
        assert_eq!(self.client.settle(received.kind, Vec::new()), []);
        true
    }

    /// Lets everything under way arrive.
    fn quiet(&mut self) {
        for _ in 0..10_000 {
            let steps = [Op::ClientSends, Op::ServerReads, Op::ServerSends, Op::ClientReads];
            if !steps.iter().fold(false, |any, op| self.apply(op) | any) {
                return;
            }
        }
        panic!("client and server never come to rest");
    }

    fn expected(&self, kind: ResourceKind, name: &str) -> Option<Any> {
        self.snapshot.sets[kind].get(name).map(|resource| resource.any.clone())
    }
}

fn converges(protocol: Protocol, ops: &[Op]) {
    let mut pair = Pair::new(protocol);
    for op in ops {
        pair.apply(op);
    }
    pair.quiet();
    for name in (0..5u8).map(|name| name.to_string()) {
        let view = |kind| pair.view.get(&(kind, name.clone())).cloned();
        assert_eq!(view(CDS), pair.expected(CDS, &name), "cluster {name}");
        let wanted = pair.client.interest(Endpoints).covers(&name);
        let expected = pair.expected(Endpoints, &name).filter(|_| wanted);
        // In the state of the world a removal of endpoints is not told.
        if protocol == Protocol::Delta || expected.is_some() {
            assert_eq!(view(Endpoints), expected, "endpoints {name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn delta_ends_with_what_the_server_has(ops in prop::collection::vec(op(), 0..80)) {
        converges(Protocol::Delta, &ops);
    }

    #[test]
    fn the_state_of_the_world_ends_with_what_the_server_has(ops in prop::collection::vec(op(), 0..80)) {
        converges(Protocol::Sotw, &ops);
    }
}
