//! Endpoint assignments.

use super::*;

fn decoded(yaml: &str) -> Result<Assignment, String> {
    let proto: wire::ClusterLoadAssignment = proto::json::from_yaml(yaml).unwrap();
    decode(&proto.encode_to_vec()).map_err(|invalid| invalid.to_string())
}

#[track_caller]
fn check_refused(yaml: &str, reason: &str) {
    assert_eq!(decoded(yaml).unwrap_err(), reason);
}

#[test]
fn an_assignment_names_its_cluster() {
    check_refused("{endpoints: []}", "cluster_name: is empty");
    assert_eq!(decoded("{cluster_name: a}").unwrap().overprovisioning, 140);
}

#[test]
fn a_locality_is_given_once_for_a_priority() {
    let twice = "{cluster_name: a, endpoints: [{locality: {zone: z}}, {locality: {zone: z}, priority: 1}, {locality: {zone: z}}]}";
    check_refused(twice, "endpoints[2]: this locality was already given for this priority");
}

#[test]
fn an_endpoint_can_be_named_once_and_used_by_name() {
    let yaml = "{cluster_name: a, named_endpoints: {x: {address: {socket_address: {address: '::1', port_value: 8}}}}, \
                endpoints: [{lb_endpoints: [{endpoint_name: x}]}]}";
    assert_eq!(decoded(yaml).unwrap().endpoints().next().unwrap().address, Address::Ip("[::1]:8".parse().unwrap()));
    check_refused(
        "{cluster_name: a, endpoints: [{lb_endpoints: [{endpoint_name: other}]}]}",
        "endpoints[0].lb_endpoints[0].endpoint_name: named_endpoints has no \"other\"",
    );
}

#[test]
fn values_out_of_range_are_refused() {
    check_refused("{cluster_name: a, endpoints: [{priority: 129}]}", "endpoints[0].priority: must be at most 128");
    check_refused(
        "{cluster_name: a, policy: {overprovisioning_factor: 0}}",
        "policy.overprovisioning_factor: must be more than 0",
    );
    let weightless = "{cluster_name: a, endpoints: [{lb_endpoints: [{load_balancing_weight: 0, endpoint: {address: \
                      {pipe: {path: /x}}}}]}]}";
    check_refused(weightless, "endpoints[0].lb_endpoints[0].load_balancing_weight: must be at least 1");
}

#[test]
fn a_share_of_requests_can_be_dropped() {
    let yaml = "{cluster_name: a, policy: {drop_overloads: [{category: c, drop_percentage: {numerator: 5}}]}}";
    let drop = decoded(yaml).unwrap().drop.unwrap();
    assert_eq!((&*drop.category, drop.share.numerator, drop.share.denominator), ("c", 5, 100));
}
