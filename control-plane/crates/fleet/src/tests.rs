//! The book of nodes, with events as a stream reports them.

use proto::envoy::config::core::v3::{Extension, Node};
use shared_xds::{ResourceKind, Version};

use super::*;

const CDS: ResourceKind = ResourceKind::Cluster;

fn node(id: &str, agent: &str) -> Node {
    Node { id: id.to_owned(), user_agent_name: agent.to_owned(), ..Default::default() }
}

fn version(text: &str) -> Version {
    Version::of(text.as_bytes())
}

fn connect(fleet: &Arc<Fleet>, id: &str) -> Connection {
    let info = fleet.identify(node(id, "envoy"));
    fleet.connect(info, "edge", SystemTime::now()).expect("room")
}

#[test]
fn a_node_is_classed_by_its_user_agent() {
    let fleet = Fleet::new(Limits::default());
    let check = |agent: &str, class| assert_eq!(fleet.identify(node("n", agent)).class, class, "{agent}");
    check("envoy", Class::Envoy);
    check("weir-proxy", Class::Weir);
    check("gRPC C-core linux Python", Class::Grpc);
    check("gRPC Node Pure JS", Class::Grpc);
    check("", Class::Envoy);
}

#[test]
fn equal_extension_lists_are_kept_once() {
    let fleet = Fleet::new(Limits::default());
    let with = |names: &[&str]| {
        let extensions =
            names.iter().map(|name| Extension { name: (*name).to_owned(), ..Default::default() }).collect();
        fleet.identify(Node { extensions, ..node("n", "envoy") })
    };
    let (one, two, other) = (with(&["b", "a"]), with(&["a", "b"]), with(&["a"]));
    assert!(Arc::ptr_eq(&one.extensions, &two.extensions));
    assert!(!Arc::ptr_eq(&one.extensions, &other.extensions));
    assert!(one.has_extension("b") && !other.has_extension("b"));
}

#[test]
fn the_status_follows_what_was_sent_and_answered() {
    let fleet = Fleet::new(Limits::default());
    let connection = connect(&fleet, "n");
    let check = |event: Observed, expected| {
        connection.observe(&[event], SystemTime::now());
        assert_eq!(fleet.node("n").expect("known").kinds[&CDS].status(), expected);
    };
    let (one, two) = (version("1"), version("2"));
    check(Observed::Sent { kind: CDS, version: one, resources: 1, removed: 0 }, ConfigStatus::Stale);
    check(Observed::Acked { kind: CDS, version: one }, ConfigStatus::Synced);
    check(Observed::Sent { kind: CDS, version: two, resources: 1, removed: 0 }, ConfigStatus::Stale);
    let message = "(a: connect_timeout must be positive) (b: bad)".to_owned();
    check(Observed::Nacked { kind: CDS, version: two, message }, ConfigStatus::Error);
    let refusal = fleet.node("n").expect("known").kinds[&CDS].refusal.clone().expect("refused");
    assert_eq!(refusal.names, ["a", "b"]);
    check(Observed::InSync { kind: CDS, version: one }, ConfigStatus::Synced);
}

#[test]
fn the_names_in_a_refusal_of_envoy_are_found() {
    assert_eq!(names_in("Error adding/updating cluster(s) bad: unknown type, worse: no"), ["bad", "worse"]);
    assert!(names_in("internal error").is_empty());
}

#[test]
fn a_node_with_two_streams_is_connected_until_both_end() {
    let fleet = Fleet::new(Limits::default());
    let (one, two) = (connect(&fleet, "n"), connect(&fleet, "n"));
    drop(one);
    assert_eq!(fleet.node("n").map(|n| (n.streams, n.connected_since.is_some())), Some((1, true)));
    drop(two);
    assert_eq!(fleet.node("n").map(|n| (n.streams, n.connected_since.is_some())), Some((0, false)));
}

#[test]
fn a_node_that_went_away_is_forgotten_in_time_and_a_full_book_refuses() {
    let fleet = Fleet::new(Limits { nodes: 1, forget_after: Duration::from_secs(60) });
    let gone = connect(&fleet, "gone");
    let refused = |at| fleet.connect(fleet.identify(node("new", "envoy")), "edge", at).is_err();
    assert!(refused(SystemTime::now() + Duration::from_secs(90)), "it is still connected");
    drop(gone);
    assert!(refused(SystemTime::now()));
    assert!(!refused(SystemTime::now() + Duration::from_secs(90)));
    assert_eq!(fleet.nodes().iter().map(|n| n.info.id.clone()).collect::<Vec<_>>(), ["new"]);
}

#[test]
fn a_change_wakes_the_watchers() {
    let fleet = Fleet::new(Limits::default());
    let mut watch = fleet.watch();
    assert!(!watch.has_changed().expect("open"));
    let _connection = connect(&fleet, "n");
    assert!(watch.has_changed().expect("open"));
    watch.mark_unchanged();
    fleet.report_load("n", &[], SystemTime::now());
    assert!(watch.has_changed().expect("open"));
    assert!(fleet.node("n").expect("known").load.is_some());
}

#[test]
fn a_load_report_is_kept_by_endpoint_with_what_our_proxies_add() {
    use proto::envoy::config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier};
    use proto::envoy::config::endpoint::v3::{ClusterStats, UpstreamEndpointStats, UpstreamLocalityStats};
    use shared_xds::load::EndpointView;
    let address = |host: &str| {
        let socket = SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(80)),
            ..Default::default()
        };
        Some(Address { address: Some(address::Address::SocketAddress(socket)) })
    };
    let out =
        EndpointView { health: "unhealthy".into(), reasons: vec!["failed_active_hc".into()], weight: 2, latency: None };
    let endpoints = vec![
        UpstreamEndpointStats {
            address: address("10.0.0.1"),
            metadata: Some(out.to_metadata()),
            total_issued_requests: 7,
            total_requests_in_progress: 1,
            ..Default::default()
        },
        UpstreamEndpointStats { address: address("::1"), ..Default::default() },
        UpstreamEndpointStats::default(),
    ];
    let locality = UpstreamLocalityStats { upstream_endpoint_stats: endpoints, priority: 1, ..Default::default() };
    let cluster =
        ClusterStats { cluster_name: "app".into(), upstream_locality_stats: vec![locality], ..Default::default() };
    let fleet = Fleet::new(Limits::default());
    let _connection = connect(&fleet, "n");
    fleet.report_load("n", &[cluster], SystemTime::now());
    let load = fleet.node("n").expect("known").load.expect("reported");
    let seen: Vec<_> = load.endpoints.iter().map(|e| (e.address.as_str(), e.weight, e.requests, e.priority)).collect();
    assert_eq!(seen, [("10.0.0.1:80", Some(2), 7, 1), ("[::1]:80", None, 0, 1)]);
    assert_eq!(load.endpoints[0].reasons, ["failed_active_hc"]);
}
