//! How changes are laid over a configuration.

use super::*;

fn read(file: &str, text: &str) -> Draft {
    let mut problems = Problems::default();
    let source = Source { file: file.into(), text: text.into() };
    let draft = Draft::read(&[source], &[], Attachments::new(), &mut problems);
    assert_eq!(problems.errors, vec![]);
    draft
}

/// `kind/name` of every object in order; an unnamed route shows its `to`.
fn shown(draft: &Draft) -> String {
    let name = |o: &Object| match o.name.is_empty() {
        true => format!("{}>{}", o.kind, o.node.to_json()["to"].as_str().unwrap_or("?")),
        false => format!("{}/{}", o.kind, o.name),
    };
    draft.objects.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn check_with(base: &[(&str, &str)], change: (&str, &str), prune: bool, expected: &str) {
    let base = base.iter().fold(Draft::default(), |d, (file, text)| d.with(read(file, text), false, ""));
    assert_eq!(shown(&base.with(read(change.0, change.1), prune, "")), expected);
}

#[test]
fn a_named_object_is_replaced_where_it_stands_and_a_new_one_goes_to_the_end() {
    check_with(
        &[("a", "clusters: { x: ['1.1.1.1:1'], y: ['1.1.1.1:2'] }")],
        ("b", "clusters: { z: ['1.1.1.1:3'], x: ['1.1.1.1:4'] }"),
        false,
        "cluster/x cluster/y cluster/z",
    );
}

#[test]
fn the_routes_of_a_file_are_replaced_as_a_block_at_their_place() {
    check_with(
        &[("a", "routes: [{ to: a1 }, { to: a2 }]"), ("b", "routes: [{ to: b1 }]")],
        ("a", "routes: [{ to: a3 }]"),
        false,
        "route>a3 route>b1",
    );
}

#[test]
fn a_named_route_of_another_file_is_replaced_too() {
    check_with(
        &[("a", "routes: [{ name: n, to: a1 }, { to: a2 }]")],
        ("b", "routes: [{ name: n, to: b1 }, { to: b2 }]"),
        false,
        "route/n route>b2 route>a2",
    );
}

#[test]
fn with_prune_nothing_else_remains() {
    check_with(&[("a", "clusters: { x: ['1.1.1.1:1'] }")], ("b", "routes: [{ to: y }]"), true, "route>y");
}

#[test]
fn objects_are_taken_out_by_name_and_unnamed_routes_by_index() {
    let draft = read("a", "clusters: { x: ['1.1.1.1:1'] }\nroutes: [{ to: a }, { to: b }]");
    let left = draft.without(&[(Kind::Cluster, "x".into()), (Kind::Route, "routes[1]".into())]);
    assert_eq!(shown(&left), "route>a");
}

#[test]
fn what_is_stored_comes_back_with_its_places() {
    let text = "listeners:\n  web: \":80\"\nroutes:\n  - to: app\nclusters:\n  app: [\"127.0.0.1:1\"]\n";
    let draft = read("a.yaml", text);
    let back = Draft::decode(&draft.encode()).expect("decodes");
    assert_eq!(back.to_json(), draft.to_json());
    assert_eq!(back.objects[2].place(), Place { file: "a.yaml".into(), line: 6, column: 8 });
    assert_eq!(shown(&read("b", &Node::yaml(&draft.to_json()))), shown(&draft));
}

#[test]
fn attachments_are_kept_while_something_refers_to_them() {
    let mut base = read("a", "listeners: { web: { address: ':1', tls: { cert: /c, key: '${K}' } } }");
    base.attachments = [("/c", "C"), ("${K}", "K"), ("/other", "O")].map(|(k, v)| (k.into(), v.into())).into();
    let kept = base.with(Draft::default(), false, "");
    assert_eq!(kept.attachments.keys().collect::<Vec<_>>(), ["${K}", "/c"]);
    let gone = base.with(read("a", "listeners: { web: ':1' }"), false, "");
    assert_eq!(gone.attachments.len(), 0);
}

#[test]
fn raw_resources_are_named_after_their_message() {
    let text = "'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster\nname: blue\n---\nresources:\n\
                - '@type': type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: blue\n";
    assert_eq!(shown(&read("a", text)), "envoy/Cluster/blue envoy/ClusterLoadAssignment/blue");
}

#[test]
fn with_a_tag_prune_removes_only_what_has_it() {
    let base = read("a", "clusters: { old: ['1.1.1.1:1'] }\nroutes: [{ to: a }]");
    let mine = read("b", "clusters: { x: ['1.1.1.1:1'], y: ['1.1.1.1:2'] }\nroutes: [{ to: x }]");
    let base = base.with(mine, false, "shop");
    let next = base.with(read("b", "clusters: { y: ['1.1.1.1:3'] }"), true, "shop");
    assert_eq!(shown(&next), "cluster/old route>a cluster/y");
    let again = next.with(read("c", "clusters: { y: ['1.1.1.1:4'] }"), false, "");
    assert_eq!(again.objects.last().map(|o| o.tag.as_str()), Some("shop"), "what is not said stays");
    let other = read("d", "clusters: { y: ['1.1.1.1:5'] }");
    assert_eq!(again.tagged_otherwise(&other, "billing").len(), 1);
    assert_eq!(again.tagged_otherwise(&other, "").len(), 0);
    let back = Draft::decode(&again.encode()).expect("decodes");
    assert_eq!(back, again);
}
