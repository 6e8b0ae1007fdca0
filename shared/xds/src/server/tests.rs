//! The conformance scenarios of the protocol, spoken with one session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use proto::envoy::config::cluster::v3::Cluster;
use proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use proto::envoy::config::listener::v3::Listener;
use proto::envoy::config::route::v3::RouteConfiguration;
use proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use proto::google::rpc::Status;
use proto::{Any, weir::xds::v1::SnapshotMark};

use super::*;
use crate::ResourceKind::{Endpoints, Extension, Route, SnapshotMark as Marks, VirtualHost};
use crate::wire::{DeltaRequest, Request, SotwRequest};
use crate::{Protocol, Resource, ResourceKind, Snapshot};

const CDS: ResourceKind = ResourceKind::Cluster;
const LDS: ResourceKind = ResourceKind::Listener;

/// `cds:a=1` is a cluster `a` with content 1.
fn resource(text: &str) -> Resource {
    let (kind, rest) = text.split_once(':').expect("kind");
    let (name, content) = rest.split_once('=').expect("content");
    let number: u32 = content.parse().expect("a number");
    let (name, kind) = (name.to_owned(), ResourceKind::from_short(kind).expect("a kind"));
    match kind {
        ResourceKind::Cluster => {
            let refresh = vec![(Endpoints, Arc::from(&*name))];
            let cluster = Cluster { name, per_connection_buffer_limit_bytes: Some(number), ..Default::default() };
            Resource::new(Any::pack(&cluster)).expect("valid").with_refresh(refresh)
        }
        ResourceKind::Endpoints => {
            let policy = proto::envoy::config::endpoint::v3::cluster_load_assignment::Policy {
                overprovisioning_factor: Some(number),
                ..Default::default()
            };
            let loads = ClusterLoadAssignment { cluster_name: name, policy: Some(policy), ..Default::default() };
            Resource::new(Any::pack(&loads)).expect("valid")
        }
        ResourceKind::Listener => {
            let listener = Listener { name, per_connection_buffer_limit_bytes: Some(number), ..Default::default() };
            Resource::new(Any::pack(&listener)).expect("valid")
        }
        ResourceKind::Route => {
            let route =
                RouteConfiguration { name, max_direct_response_body_size_bytes: Some(number), ..Default::default() };
            Resource::new(Any::pack(&route)).expect("valid")
        }
        _ => {
            let any = Any { type_url: kind.type_url().to_owned(), value: number.to_le_bytes().to_vec().into() };
            Resource::named(kind, &name, any)
        }
    }
}

fn resources(texts: &str) -> Vec<Resource> {
    texts.split_whitespace().map(resource).collect()
}

/// A stream with a client whose every word the test writes.
struct Stream {
    session: Session,
    snapshot: Snapshot,
    now: Instant,
    protocol: Protocol,
}

/// What the test compares: `cds +a +b -c`.
fn show(response: &crate::wire::Response) -> (String, String) {
    let mut bytes = Vec::new();
    response.encode(&mut bytes);
    let kind = ResourceKind::from_type_url(&response.type_url).map_or("?", ResourceKind::short);
    let mut text = kind.to_owned();
    if response.protocol == Protocol::Delta {
        let response = DeltaDiscoveryResponse::decode(&bytes[..]).expect("a response");
        for resource in &response.resources {
            let sign = if resource.resource.is_some() { '+' } else { '~' };
            text.push_str(&format!(" {sign}{}", resource.name));
        }
        for name in &response.removed_resources {
            text.push_str(&format!(" -{name}"));
        }
    } else {
        let response = DiscoveryResponse::decode(&bytes[..]).expect("a response");
        for any in &response.resources {
            text.push_str(&format!(" +{}", crate::resource::inner_name(&any.value).expect("a name")));
        }
    }
    (text, response.nonce.clone())
}

impl Stream {
    fn new(protocol: Protocol, texts: &str) -> Self {
        Self::with(protocol, texts, Options::default())
    }

    fn delta(texts: &str) -> Self {
        Self::new(Protocol::Delta, texts)
    }

    fn sotw(texts: &str) -> Self {
        Self::new(Protocol::Sotw, texts)
    }

    fn with(protocol: Protocol, texts: &str, options: Options) -> Self {
        let session = Session::new(protocol, None, Arc::new(options));
        let mut stream = Self { session, snapshot: Snapshot::default(), now: Instant::now(), protocol };
        stream.publish(texts);
        stream
    }

    fn publish(&mut self, texts: &str) {
        self.publish_all(resources(texts));
    }

    fn publish_all(&mut self, resources: Vec<Resource>) {
        self.snapshot = Snapshot::following(&self.snapshot, self.snapshot.revision + 1, resources);
        self.session.publish(Arc::new(self.snapshot.clone()), self.now);
    }

    fn send(&mut self, request: DeltaRequest) {
        self.session.on_request(Request::Delta(request)).expect("a fair request");
    }

    fn say(&mut self, request: SotwRequest) {
        self.session.on_request(Request::Sotw(request)).expect("a fair request");
    }

    /// `+a -b` subscribes to a and unsubscribes from b.
    fn ask(&mut self, kind: ResourceKind, names: &str) {
        self.send(delta(kind, names));
    }

    /// The whole list of names, with the nonce of the latest response of that kind.
    fn list(&mut self, kind: ResourceKind, names: &str, nonce: &str) {
        self.say(sotw(kind, names, nonce));
    }

    /// Everything due now, acknowledged at once.
    fn all(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(response) = self.session.poll(self.now) {
            let (text, nonce) = show(&response);
            let kind = ResourceKind::from_type_url(&response.type_url);
            if let (Some(kind), Protocol::Delta) = (kind, self.protocol) {
                self.send(DeltaRequest { response_nonce: nonce, ..delta(kind, "") });
            }
            texts.push(text);
            assert!(texts.len() < 200, "endless: {texts:?}");
        }
        texts
    }

    fn next(&mut self) -> Option<(String, String)> {
        self.session.poll(self.now).map(|response| show(&response))
    }

    fn nonce(&mut self, expected: &str) -> String {
        let (text, nonce) = self.next().expect(expected);
        assert_eq!(text, expected);
        nonce
    }

    fn silent(&mut self) {
        assert_eq!(self.next(), None);
    }
}

fn delta(kind: ResourceKind, names: &str) -> DeltaRequest {
    let pick = |sign: char| names.split_whitespace().filter_map(|n| n.strip_prefix(sign)).map(str::to_owned).collect();
    DeltaRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: pick('+'),
        resource_names_unsubscribe: pick('-'),
        ..Default::default()
    }
}

fn sotw(kind: ResourceKind, names: &str, nonce: &str) -> SotwRequest {
    SotwRequest {
        type_url: kind.type_url().to_owned(),
        resource_names: names.split_whitespace().map(str::to_owned).collect(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    }
}

fn refused() -> Option<Status> {
    Some(Status { code: 3, message: "(a: bad)".to_owned(), ..Default::default() })
}

fn held(texts: &str) -> std::collections::BTreeMap<String, String> {
    resources(texts).iter().map(|r| (r.name.to_string(), r.version.to_string())).collect()
}

// === subscribing, both variants ===

#[test]
fn a_wildcard_gets_everything_and_then_what_changes() {
    let mut delta = Stream::delta("cds:a=1 cds:b=1");
    delta.ask(CDS, "");
    assert_eq!(delta.all(), ["cds +a +b"]);
    delta.publish("cds:a=1 cds:b=2 cds:c=1");
    assert_eq!(delta.all(), ["cds +b +c"]);

    let mut sotw = Stream::sotw("cds:a=1 cds:b=1");
    sotw.list(CDS, "", "");
    let nonce = sotw.nonce("cds +a +b");
    sotw.list(CDS, "", &nonce);
    sotw.publish("cds:a=1 cds:b=2 cds:c=1");
    sotw.nonce("cds +a +b +c");
    sotw.silent();
}

#[test]
fn a_named_subset_gets_only_its_own() {
    let mut delta = Stream::delta("rds:a=1 rds:b=1 rds:c=1");
    delta.ask(Route, "+a +b");
    assert_eq!(delta.all(), ["rds +a +b"]);
    delta.publish("rds:a=2 rds:b=1 rds:c=2");
    assert_eq!(delta.all(), ["rds +a"]);

    let mut sotw = Stream::sotw("rds:a=1 rds:b=1 rds:c=1");
    sotw.list(Route, "a b", "");
    let nonce = sotw.nonce("rds +a +b");
    sotw.list(Route, "a b", &nonce);
    sotw.publish("rds:a=2 rds:b=1 rds:c=2");
    sotw.nonce("rds +a");
    sotw.silent();
}

#[test]
fn a_name_that_does_not_exist_is_answered_when_it_appears() {
    let mut delta = Stream::delta("rds:a=1");
    delta.ask(Route, "+x");
    assert_eq!(delta.all(), ["rds -x"]);
    delta.publish("rds:a=1 rds:x=1");
    assert_eq!(delta.all(), ["rds +x"]);

    let mut sotw = Stream::sotw("rds:a=1");
    sotw.list(Route, "x", "");
    sotw.silent();
    sotw.publish("rds:a=1 rds:x=1");
    sotw.nonce("rds +x");
}

#[test]
fn unsubscribing_ends_the_updates() {
    let mut delta = Stream::delta("rds:a=1 rds:b=1");
    delta.ask(Route, "+a +b");
    assert_eq!(delta.all(), ["rds +a +b"]);
    delta.ask(Route, "-a -never");
    delta.publish("rds:a=2 rds:b=2");
    assert_eq!(delta.all(), ["rds +b"]);
    delta.ask(Route, "-b");
    delta.publish("rds:a=3 rds:b=3");
    delta.silent();

    let mut sotw = Stream::sotw("rds:a=1 rds:b=1");
    sotw.list(Route, "a b", "");
    let nonce = sotw.nonce("rds +a +b");
    sotw.list(Route, "b", &nonce);
    sotw.publish("rds:a=2 rds:b=2");
    let nonce = sotw.nonce("rds +b");
    sotw.list(Route, "", &nonce);
    sotw.publish("rds:a=3 rds:b=3");
    sotw.silent();
}

#[test]
fn a_subscription_that_grows_is_answered_with_the_new_names() {
    let mut sotw = Stream::sotw("eds:a=1 eds:b=1");
    sotw.list(Endpoints, "a", "");
    let nonce = sotw.nonce("eds +a");
    sotw.list(Endpoints, "a b", &nonce);
    sotw.nonce("eds +b");
    sotw.silent();
}

#[test]
fn removed_resources_are_told() {
    let mut delta = Stream::delta("cds:a=1 cds:b=1 lds:l=1");
    delta.ask(CDS, "");
    delta.ask(LDS, "");
    assert_eq!(delta.all(), ["cds +a +b", "lds +l"]);
    delta.publish("cds:a=1");
    assert_eq!(delta.all(), ["lds -l", "cds -b"]);

    let mut sotw = Stream::sotw("cds:a=1");
    sotw.list(CDS, "", "");
    let nonce = sotw.nonce("cds +a");
    sotw.list(CDS, "", &nonce);
    sotw.publish("");
    sotw.nonce("cds");
}

#[test]
fn two_types_share_an_aggregated_stream() {
    let mut delta = Stream::delta("lds:l=1 cds:a=1 eds:a=1 rds:r=1");
    delta.ask(Route, "+r");
    delta.ask(LDS, "");
    delta.ask(Endpoints, "+a");
    delta.ask(CDS, "");
    assert_eq!(delta.all(), ["cds +a", "eds +a", "lds +l", "rds +r"]);
}

#[test]
fn an_empty_wildcard_is_answered_empty() {
    let mut delta = Stream::delta("");
    delta.ask(CDS, "");
    assert_eq!(delta.all(), ["cds"]);
    let mut sotw = Stream::sotw("");
    sotw.list(LDS, "", "");
    sotw.nonce("lds");
}

// === nonces ===

#[test]
fn a_stale_nonce_is_ignored_with_its_names_in_the_state_of_the_world() {
    let mut sotw = Stream::sotw("eds:a=1 eds:b=1");
    sotw.list(Endpoints, "a", "");
    let first = sotw.nonce("eds +a");
    sotw.list(Endpoints, "a", &first);
    sotw.publish("eds:a=2 eds:b=1");
    let second = sotw.nonce("eds +a");
    sotw.list(Endpoints, "a b", &first);
    sotw.silent();
    sotw.list(Endpoints, "a b", &second);
    sotw.nonce("eds +b");
}

#[test]
fn a_stale_nonce_still_subscribes_in_delta() {
    let mut delta_stream = Stream::delta("eds:a=1 eds:b=1");
    delta_stream.ask(Endpoints, "+a");
    assert_eq!(delta_stream.all(), ["eds +a"]);
    delta_stream.send(DeltaRequest { response_nonce: "other".to_owned(), ..delta(Endpoints, "+b") });
    assert_eq!(delta_stream.all(), ["eds +b"]);
}

#[test]
fn a_first_request_with_the_nonce_of_an_earlier_stream_is_a_first_request() {
    let mut sotw = Stream::sotw("eds:a=1");
    sotw.list(Endpoints, "a", "from-before");
    sotw.nonce("eds +a");
}

#[test]
fn the_same_question_after_its_ack_is_answered_again() {
    let mut sotw = Stream::sotw("eds:a=1");
    sotw.list(Endpoints, "a", "");
    let nonce = sotw.nonce("eds +a");
    sotw.list(Endpoints, "a", &nonce);
    sotw.silent();
    sotw.list(Endpoints, "a", &nonce);
    sotw.nonce("eds +a");
    sotw.silent();
}

#[test]
fn what_was_refused_is_not_sent_again_until_it_changes() {
    let mut delta_stream = Stream::delta("cds:a=1");
    delta_stream.ask(CDS, "");
    let nonce = delta_stream.nonce("cds +a");
    let nack = DeltaRequest { response_nonce: nonce, error_detail: refused(), ..delta(CDS, "") };
    delta_stream.send(nack);
    delta_stream.silent();
    let nacked = |o: &Observed| matches!(o, Observed::Nacked { message, .. } if message == "(a: bad)");
    assert!(delta_stream.session.observed().iter().any(nacked));
    delta_stream.publish("cds:a=2");
    assert_eq!(delta_stream.all(), ["cds +a"]);

    let mut stream = Stream::sotw("cds:a=1");
    stream.list(CDS, "", "");
    let nonce = stream.nonce("cds +a");
    stream.say(SotwRequest { error_detail: refused(), ..sotw(CDS, "", &nonce) });
    stream.silent();
    stream.publish("cds:a=2");
    stream.nonce("cds +a");
}

// === wildcards and names together ===

#[test]
fn a_wildcard_got_by_silence_lives_until_it_is_unsubscribed() {
    let mut stream = Stream::delta("cds:a=1 cds:b=1");
    stream.ask(CDS, "");
    assert_eq!(stream.all(), ["cds +a +b"]);
    stream.ask(CDS, "+a");
    assert_eq!(stream.all(), ["cds +a"]);
    stream.publish("cds:a=1 cds:b=2");
    assert_eq!(stream.all(), ["cds +b"]);
    stream.ask(CDS, "-*");
    stream.publish("cds:a=2 cds:b=3");
    assert_eq!(stream.all(), ["cds +a"]);
}

#[test]
fn a_stream_that_opened_with_a_name_has_no_wildcard_until_it_asks() {
    let mut stream = Stream::delta("cds:a=1 cds:b=1");
    stream.ask(CDS, "+a");
    assert_eq!(stream.all(), ["cds +a"]);
    stream.ask(CDS, "-a");
    stream.publish("cds:a=2 cds:b=2");
    stream.silent();
    stream.ask(CDS, "+*");
    assert_eq!(stream.all(), ["cds +a +b"]);
}

#[test]
fn a_name_unsubscribed_under_a_wildcard_is_answered() {
    let mut stream = Stream::delta("cds:a=1");
    stream.ask(CDS, "");
    stream.ask(CDS, "+a +lazy");
    assert_eq!(stream.all(), ["cds +a -lazy"]);
    stream.ask(CDS, "-a");
    assert_eq!(stream.all(), ["cds +a"]);
    stream.ask(CDS, "-lazy");
    assert_eq!(stream.all(), ["cds -lazy"]);
}

#[test]
fn an_empty_list_after_names_is_no_wildcard() {
    let mut stream = Stream::sotw("cds:a=1 cds:b=1");
    stream.list(CDS, "a", "");
    let nonce = stream.nonce("cds +a");
    stream.list(CDS, "", &nonce);
    stream.nonce("cds");
    stream.publish("cds:a=2 cds:b=2");
    stream.silent();
}

// === coming back ===

#[test]
fn a_client_that_comes_back_gets_only_the_difference() {
    let mut stream = Stream::delta("cds:a=1 cds:b=2 cds:c=1");
    let initial_resource_versions = held("cds:a=1 cds:b=1 cds:gone=1");
    stream.send(DeltaRequest { initial_resource_versions, ..delta(CDS, "") });
    assert_eq!(stream.all(), ["cds +b +c", "cds -gone"]);
}

#[test]
fn a_client_that_comes_back_up_to_date_gets_an_empty_answer_and_no_resource() {
    let mut stream = Stream::delta("cds:a=1 eds:a=1 eds:b=1");
    stream.send(DeltaRequest { initial_resource_versions: held("cds:a=1"), ..delta(CDS, "") });
    stream.send(DeltaRequest { initial_resource_versions: held("eds:a=1 eds:b=1"), ..delta(Endpoints, "+a +b") });
    assert_eq!(stream.all(), ["cds"]);

    let mut sotw_stream = Stream::sotw("cds:a=1");
    let version_info = sotw_stream.snapshot.sets[CDS].version().to_string();
    sotw_stream.say(SotwRequest { version_info, ..sotw(CDS, "", "") });
    sotw_stream.silent();
}

#[test]
fn versions_of_another_server_are_all_different() {
    let mut stream = Stream::delta("cds:a=1");
    let initial_resource_versions = [("a".to_owned(), "7".to_owned())].into();
    stream.send(DeltaRequest { initial_resource_versions, ..delta(CDS, "") });
    assert_eq!(stream.all(), ["cds +a"]);
}

#[test]
fn endpoints_are_answered_before_any_cluster_was_asked_for() {
    let mut stream = Stream::delta("cds:a=1 eds:a=1");
    stream.ask(Endpoints, "+a");
    assert_eq!(stream.all(), ["eds +a"]);
}

#[test]
fn fifty_thousand_names_are_taken_and_cost_nothing_on_the_wire() {
    let texts: Vec<String> = (0..50_000).map(|i| format!("cds:c{i}=1")).collect();
    let texts = texts.join(" ");
    let mut stream = Stream::delta(&texts);
    stream.send(DeltaRequest { initial_resource_versions: held(&texts), ..delta(CDS, "") });
    assert_eq!(stream.all(), ["cds"]);
}

#[test]
fn a_request_before_the_first_snapshot_waits_for_it() {
    let mut session = Session::new(Protocol::Delta, None, Arc::default());
    let mut request = delta(CDS, "");
    request.initial_resource_versions = held("cds:a=1");
    session.on_request(Request::Delta(request)).expect("fair");
    assert!(session.poll(Instant::now()).is_none());
    let snapshot = Snapshot::following(&Snapshot::default(), 1, resources("cds:a=1 cds:b=1"));
    session.publish(Arc::new(snapshot), Instant::now());
    assert_eq!(show(&session.poll(Instant::now()).expect("due")).0, "cds +b");
}

// === order ===

#[test]
fn endpoints_follow_a_changed_cluster_unasked() {
    let mut stream = Stream::delta("cds:a=1 cds:b=1 eds:a=1 eds:b=1");
    stream.ask(CDS, "");
    stream.ask(Endpoints, "+a +b");
    assert_eq!(stream.all(), ["cds +a +b", "eds +a +b"]);
    stream.publish("cds:a=2 cds:b=1 eds:a=1 eds:b=1");
    assert_eq!(stream.all(), ["cds +a", "eds +a"]);
}

#[test]
fn routes_wait_for_the_clusters_to_be_acknowledged_but_endpoints_do_not() {
    let mut stream = Stream::delta("cds:a=1 rds:r=1 eds:a=1");
    stream.ask(CDS, "");
    stream.ask(Route, "+r");
    stream.ask(Endpoints, "+a");
    stream.all();
    stream.publish("cds:a=1 cds:b=1 rds:r=2 eds:a=2");
    let nonce = stream.nonce("cds +b");
    stream.nonce("eds +a");
    stream.silent();
    assert!(stream.session.deadline().is_some());
    stream.send(DeltaRequest { response_nonce: nonce, ..delta(CDS, "") });
    assert_eq!(stream.all(), ["rds +r"]);
}

#[test]
fn routes_wait_no_longer_than_the_deadline() {
    let mut stream = Stream::delta("cds:a=1 rds:r=1");
    stream.ask(CDS, "");
    stream.ask(Route, "+r");
    stream.all();
    stream.publish("cds:a=2 rds:r=2");
    stream.nonce("cds +a");
    stream.silent();
    stream.now = stream.session.deadline().expect("a deadline");
    stream.nonce("rds +r");
    assert!(stream.session.observed().contains(&Observed::GateTimeout { kind: CDS }));
}

#[test]
fn clusters_go_after_the_routes_that_named_them_were_replaced() {
    let mut stream = Stream::delta("cds:a=1 cds:b=1 rds:r=1");
    stream.ask(CDS, "");
    stream.ask(Route, "+r");
    stream.all();
    stream.publish("cds:b=1 rds:r=2");
    let nonce = stream.nonce("rds +r");
    stream.silent();
    stream.send(DeltaRequest { response_nonce: nonce, ..delta(Route, "") });
    assert_eq!(stream.all(), ["cds -a"]);

    let mut stream = Stream::sotw("cds:a=1 rds:r=1");
    stream.list(CDS, "", "");
    stream.list(Route, "r", "");
    let (clusters, routes) = (stream.nonce("cds +a"), stream.nonce("rds +r"));
    stream.list(CDS, "", &clusters);
    stream.list(Route, "r", &routes);
    stream.publish("cds:b=1 rds:r=2");
    let clusters = stream.nonce("cds +b +a");
    stream.list(CDS, "", &clusters);
    let routes = stream.nonce("rds +r");
    stream.silent();
    stream.list(Route, "r", &routes);
    stream.nonce("cds +b");
}

#[test]
fn a_listener_that_is_replaced_frees_its_address_in_the_same_response() {
    let mut stream = Stream::delta("lds:old=1");
    stream.ask(LDS, "");
    stream.all();
    stream.publish("lds:new=1");
    assert_eq!(stream.all(), ["lds +new -old"]);
}

#[test]
fn an_extension_is_never_taken_away() {
    let mut stream = Stream::delta("ecds:x=1");
    stream.ask(Extension, "+x");
    assert_eq!(stream.all(), ["ecds +x"]);
    stream.publish("");
    stream.silent();
}

#[test]
fn an_unknown_virtual_host_is_told_by_its_alias() {
    let mut stream = Stream::delta("");
    stream.ask(VirtualHost, "+r/h");
    assert_eq!(stream.all(), ["vhds ~r/h"]);
}

// === the rest ===

#[test]
fn an_unknown_type_is_answered_in_delta_and_never_ends_the_stream() {
    let mut stream = Stream::delta("cds:a=1");
    let unknown = DeltaRequest { type_url: "type.googleapis.com/x.Y".to_owned(), ..delta(CDS, "+a") };
    stream.send(unknown);
    assert_eq!(stream.next().map(|(text, _)| text), Some("? -a".to_owned()));
    let mut stream = Stream::sotw("");
    stream.say(SotwRequest { type_url: "type.googleapis.com/x.Y".to_owned(), ..sotw(CDS, "a", "") });
    stream.silent();
}

#[test]
fn a_stream_ends_without_a_type_url_or_with_the_wrong_one() {
    let ask = |fixed, url: &str| {
        let mut session = Session::new(Protocol::Sotw, fixed, Arc::default());
        session.on_request(Request::Sotw(SotwRequest { type_url: url.to_owned(), ..Default::default() }))
    };
    assert_eq!(ask(None, ""), Err(Close::NoTypeUrl));
    assert_eq!(ask(Some(CDS), ""), Ok(()));
    assert_eq!(ask(Some(CDS), CDS.type_url()), Ok(()));
    assert!(matches!(ask(Some(CDS), LDS.type_url()), Err(Close::WrongType { .. })));
}

#[test]
fn a_stream_has_a_bound_on_names() {
    let options = Options { names: 2, ..Options::default() };
    let mut session = Session::new(Protocol::Delta, None, Arc::new(options));
    assert_eq!(session.on_request(Request::Delta(delta(Route, "+a +b"))), Ok(()));
    assert_eq!(session.on_request(Request::Delta(delta(CDS, "+c"))), Err(Close::TooManyNames(2)));
}

#[test]
fn the_names_of_a_stream_have_a_bound_together() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let options = Options { name_bytes: 4, ..Options::default() };
        let mut session = Session::new(protocol, None, Arc::new(options));
        let mut ask = |kind, subscribe: &str, all: &str| {
            session.on_request(match protocol {
                Protocol::Delta => Request::Delta(delta(kind, subscribe)),
                Protocol::Sotw => Request::Sotw(sotw(kind, all, "")),
            })
        };
        assert_eq!(ask(Route, "+aaa +a", "aaa a"), Ok(()), "{protocol:?}");
        assert_eq!(ask(Route, "-aaa +bbb", "a bbb"), Ok(()), "{protocol:?}");
        assert_eq!(ask(Endpoints, "+a", "a"), Err(Close::LongNames(4)), "{protocol:?}");
    }
}

#[test]
fn a_big_set_is_cut_into_responses() {
    let options = Options { response_bytes: 1, ..Options::default() };
    let mut stream = Stream::with(Protocol::Delta, "cds:a=1 cds:b=1 eds:a=1 eds:b=1", options.clone());
    stream.ask(CDS, "");
    assert_eq!(stream.all(), ["cds +a", "cds +b"]);
    let mut stream = Stream::with(Protocol::Sotw, "eds:a=1 eds:b=1", options);
    stream.list(Endpoints, "a b", "");
    stream.nonce("eds +a");
    stream.nonce("eds +b");
    stream.silent();
}

#[test]
fn a_slow_reader_gets_the_latest_once() {
    let mut stream = Stream::delta("cds:a=1");
    stream.ask(CDS, "");
    stream.all();
    for content in 2..100 {
        stream.publish(&format!("cds:a={content} cds:b={content}"));
    }
    assert_eq!(stream.all(), ["cds +a +b"]);
}

#[test]
fn a_resource_with_a_lifetime_is_confirmed_at_half_of_it() {
    let mut stream = Stream::delta("");
    stream.publish_all(vec![resource("lds:a=1").with_ttl(Duration::from_secs(2)), resource("lds:b=1")]);
    stream.ask(LDS, "");
    assert_eq!(stream.all(), ["lds +a +b"]);
    for _ in 0..3 {
        assert_eq!(stream.session.deadline(), Some(stream.now + Duration::from_secs(1)));
        stream.now += Duration::from_secs(1);
        assert_eq!(stream.all(), ["lds ~a"]);
    }
}

#[test]
fn a_revision_is_settled_when_all_of_it_is_answered() {
    let mut stream = Stream::delta("cds:a=1 lds:l=1");
    stream.ask(CDS, "");
    stream.ask(LDS, "");
    let nonce = stream.nonce("cds +a");
    stream.nonce("lds +l");
    stream.silent();
    let settled = |stream: &mut Stream| stream.session.observed().contains(&Observed::Settled { revision: 1 });
    stream.send(DeltaRequest { response_nonce: nonce, ..delta(CDS, "") });
    stream.silent();
    assert!(!settled(&mut stream));
    stream.send(DeltaRequest { response_nonce: "2".to_owned(), ..delta(LDS, "") });
    stream.silent();
    assert!(settled(&mut stream));
}

// === marks ===

fn marks(stream: &mut Stream) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(response) = stream.session.poll(stream.now) {
        let (text, nonce) = show(&response);
        let kind = ResourceKind::from_type_url(&response.type_url).expect("known");
        stream.send(DeltaRequest { response_nonce: nonce, ..delta(kind, "") });
        if kind == Marks {
            let mut bytes = Vec::new();
            response.encode(&mut bytes);
            let response = DeltaDiscoveryResponse::decode(&bytes[..]).expect("a response");
            let any = response.resources[0].resource.clone().expect("a mark");
            let mark = any.unpack::<SnapshotMark>().expect("a mark").expect("valid");
            texts.push(format!("{:?} {}", mark.phase(), mark.revision));
        } else {
            texts.push(text);
        }
    }
    texts
}

#[test]
fn a_revision_stands_between_marks_in_order_with_removals_last() {
    let mut stream = Stream::delta("cds:a=1 lds:l=1 rds:r=1");
    stream.ask(Marks, &format!("+{}", crate::mark::name([CDS, LDS])));
    stream.ask(CDS, "");
    assert_eq!(marks(&mut stream), ["Begin 1", "cds +a"]);
    stream.ask(LDS, "");
    assert_eq!(marks(&mut stream), ["lds +l", "End 1"]);
    stream.ask(Route, "+r");
    assert_eq!(marks(&mut stream), ["rds +r"]);
    stream.publish("cds:b=1 lds:l=2 rds:r=2");
    assert_eq!(marks(&mut stream), ["Begin 2", "cds +b", "lds +l", "rds +r", "cds -a", "End 2"]);
}

#[test]
fn a_newer_revision_within_a_revision_ends_both() {
    let mut stream = Stream::delta("cds:a=1 lds:l=1");
    stream.ask(Marks, &format!("+{}", crate::mark::name([CDS, LDS])));
    stream.ask(CDS, "");
    stream.ask(LDS, "");
    assert_eq!(marks(&mut stream), ["Begin 1", "cds +a", "lds +l", "End 1"]);
    stream.publish("cds:a=2 lds:l=2");
    let begin = stream.session.poll(stream.now).expect("begin");
    assert_eq!(&*begin.type_url, Marks.type_url());
    stream.nonce("cds +a");
    stream.publish("cds:a=2 lds:l=3");
    assert_eq!(marks(&mut stream), ["Begin 3", "lds +l", "End 3"]);
}

#[test]
fn a_revision_is_settled_when_its_end_is_acknowledged() {
    let mut stream = Stream::delta("cds:a=1 lds:l=1");
    stream.ask(Marks, &format!("+{}", crate::mark::name([CDS, LDS])));
    stream.ask(CDS, "");
    stream.ask(LDS, "");
    let mut mark = None;
    while let Some(response) = stream.session.poll(stream.now) {
        let (_, nonce) = show(&response);
        let kind = ResourceKind::from_type_url(&response.type_url).expect("known");
        if kind == Marks {
            mark = Some(nonce);
        } else {
            stream.send(DeltaRequest { response_nonce: nonce, ..delta(kind, "") });
        }
    }
    let settled = |stream: &mut Stream| stream.session.observed().contains(&Observed::Settled { revision: 1 });
    assert!(!settled(&mut stream), "all of it is acknowledged, but it does not serve yet");
    stream.send(DeltaRequest { response_nonce: mark.expect("the end comes last"), ..delta(Marks, "") });
    assert!(stream.session.poll(stream.now).is_none());
    assert!(settled(&mut stream));
}
