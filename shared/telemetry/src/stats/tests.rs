//! The blocks as a scrape sees them.

use crate::{Registry, Scope, Selection};

crate::stats! {
    struct ClusterStats {
        counter upstream_rq_total,
        counter upstream_rq_2xx,
        counter upstream_rq_5xx,
        gauge upstream_rq_active,
        gauge default_rq_open = "circuit_breakers.default.rq_open",
        codes upstream_rq,
        histogram upstream_rq_time,
    }
}

fn counted(registry: &Registry, name: &str) -> std::sync::Arc<ClusterStats> {
    let stats = ClusterStats::register(registry, Scope::cluster(name));
    stats.upstream_rq_total().add(1, 2);
    stats.upstream_rq_total().inc(2);
    stats.upstream_rq_2xx().add(1, 3);
    stats.upstream_rq_active().inc(1);
    stats.upstream_rq().inc(1, 200);
    stats.upstream_rq_time().record(1, 7);
    stats
}

fn text(registry: &Registry, selection: &Selection) -> String {
    let mut out = String::new();
    registry.write_text(selection, &mut out).unwrap();
    out
}

fn prometheus(registry: &Registry, selection: &Selection) -> String {
    let mut out = String::new();
    registry.write_prometheus(selection, &mut out).unwrap();
    out
}

fn used() -> Selection {
    Selection { used_only: true, ..Selection::default() }
}

#[test]
fn the_text_has_envoys_names() {
    let registry = Registry::new(3);
    let _stats = counted(&registry, "api");
    let expected = "cluster.api.upstream_rq_total: 3\ncluster.api.upstream_rq_2xx: 3\ncluster.api.upstream_rq_5xx: 0\n\
        cluster.api.upstream_rq_active: 1\ncluster.api.circuit_breakers.default.rq_open: 0\n\
        cluster.api.upstream_rq_200: 1\ncluster.api.upstream_rq_time: P0(nan,7) P25(nan,7) P50(nan,7) P75(nan,7) \
        P90(nan,7) P95(nan,7) P99(nan,7) P99.5(nan,7) P99.9(nan,7) P100(nan,7)\n";
    assert_eq!(text(&registry, &Selection::default()), expected);
}

#[test]
fn used_only_and_a_filter_narrow_the_answer() {
    let registry = Registry::new(3);
    let _stats = counted(&registry, "api");
    let _other = ClusterStats::register(&registry, Scope::cluster("idle"));
    let filter = regex::Regex::new(r"rq_(total|5xx|time)$").unwrap();
    let selection = Selection { filter: Some(filter), kind: Some(super::Kind::Counter), ..used() };
    assert_eq!(text(&registry, &selection), "cluster.api.upstream_rq_total: 3\n");
    assert_eq!(
        registry.json(&selection).to_string(),
        r#"{"stats":[{"name":"cluster.api.upstream_rq_total","value":3}]}"#
    );
}

#[test]
fn prometheus_has_one_type_line_a_family_and_classes_as_labels() {
    let registry = Registry::new(3);
    let _stats = (counted(&registry, "a"), counted(&registry, "b"));
    let page = prometheus(&registry, &used());
    assert_eq!(page.matches("# TYPE envoy_cluster_upstream_rq_total counter\n").count(), 1);
    for line in [
        r#"envoy_cluster_upstream_rq_total{envoy_cluster_name="b"} 3"#,
        r#"envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="a"} 3"#,
        r#"envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="a"} 1"#,
        r#"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="a",le="5"} 0"#,
        r#"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="a",le="10"} 1"#,
        r#"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="a",le="+Inf"} 1"#,
        r#"envoy_cluster_upstream_rq_time_sum{envoy_cluster_name="a"} 7"#,
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
    }
    assert!(!page.contains("5xx") && !page.contains("rq_open"));
}

#[test]
fn a_family_is_one_group_of_lines_even_when_several_fields_share_it() {
    let registry = Registry::new(1);
    let _stats = (counted(&registry, "a"), counted(&registry, "b"));
    let page = prometheus(&registry, &Selection::default());
    let mut names: Vec<&str> =
        page.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split('{').next()).collect();
    names.dedup();
    let lines = names.len();
    names.retain(|name| !name.contains("rq_time"));
    names.sort_unstable();
    names.dedup();
    // Buckets, sum and count of the histogram alternate between the two clusters.
    assert_eq!(lines, names.len() + 6, "{page}");
}

#[test]
fn a_dropped_block_leaves_and_a_living_one_is_found_again() {
    let registry = Registry::new(3);
    let stats = counted(&registry, "api");
    assert_eq!(ClusterStats::register(&registry, Scope::cluster("api")).upstream_rq_total().value(), 3);
    drop(stats);
    assert_eq!(text(&registry, &Selection::default()), "");
    assert_eq!(ClusterStats::register(&registry, Scope::cluster("api")).upstream_rq_total().value(), 0);
}

#[test]
fn dropped_blocks_do_not_pile_up() {
    let registry = Registry::new(2);
    for n in 0..10_000 {
        ClusterStats::register(&registry, Scope::cluster(&n.to_string()));
    }
    assert!(registry.len() < 200);
}

#[test]
fn a_reset_clears_counters_and_keeps_gauges() {
    let registry = Registry::new(3);
    let stats = counted(&registry, "api");
    stats.default_rq_open().set(4);
    stats.default_rq_open().set(2);
    registry.reset_counters();
    assert_eq!(
        text(&registry, &used()),
        "cluster.api.upstream_rq_active: 1\ncluster.api.circuit_breakers.default.rq_open: 2\n"
    );
    stats.upstream_rq_active().dec(2);
    assert_eq!(stats.upstream_rq_active().value(), 0);
}
