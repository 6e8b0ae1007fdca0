//! The forms of reports and the weights they make, as stock Envoy 1.40 answered when asked with the same headers.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use shared_config::endpoint::Assignment;
use shared_config::lb_policy::LbPolicy;

use super::*;
use crate::balance::latency::stamp;
use crate::cluster::tests::{cluster, config, endpoints};

fn client_side(metrics: &[&str], error_penalty: f64) -> ClientSide {
    ClientSide {
        blackout: Duration::from_secs(10),
        expiration: Duration::from_secs(180),
        update: Duration::from_secs(1),
        error_penalty,
        out_of_band: None,
        metrics: metrics
            .iter()
            .map(|name| match Metric::of(name).unwrap() {
                Metric::Named(name) => Metric::Named(name.to_owned()),
                Metric::Utilization(name) => Metric::Utilization(name.to_owned()),
                Metric::RequestCost(name) => Metric::RequestCost(name.to_owned()),
                _ => Metric::Memory,
            })
            .collect(),
    }
}

/// The weight that a response with these headers makes.
fn weight(headers: &[(&str, &str)], config: &ClientSide) -> Option<u32> {
    let mut all = Headers::default();
    headers.iter().for_each(|(name, value)| all.append(*name, value.as_bytes()));
    let mut load = Load::default();
    report::read(&all, |metric, value| load.add(&metric, value, &config.metrics))?;
    load.weight(config.error_penalty)
}

#[test]
fn text_is_read_as_envoy_reads_it() {
    let check = |value: &str, wanted| {
        let found = weight(&[("endpoint-load-metrics", value)], &client_side(&[], 0.0));
        assert_eq!(found, wanted, "{value}");
    };
    check("TEXT rps_fractional=100, cpu_utilization=0.5", Some(200));
    check("TEXT rps_fractional:100,cpu_utilization:0.5", Some(200));
    check("TEXT rps_fractional=100,cpu_utilization=0.5,eps=10", Some(200));
    check("TEXT rps_fractional=100,application_utilization=0.2,cpu_utilization=0.5", Some(500));
    check("TEXT rps_fractional=100,cpu_utilization=0.5,mem_utilization=0.2,named_metrics.a=1", Some(200));
    check("TEXT rps_fractional=0.5,cpu_utilization=5", Some(0));
    for bad in [
        "rps_fractional=100, cpu_utilization=0.5",
        "text rps_fractional=100,cpu_utilization=0.5",
        "TEXT",
        "TEXT rps_fractional=100 , cpu_utilization = 0.5",
        "TEXT rps_fractional=100,cpu_utilization=0.5,cpu_utilization=0.2",
        "TEXT rps_fractional=100,cpu_utilization=0.5,nonsense=1",
        "TEXT rps_fractional=100,cpu_utilization=0.5,request_cost.x=3",
        "TEXT rps_fractional=inf,cpu_utilization=0.5",
        "TEXT rps_fractional=100,cpu_utilization=-1",
        "TEXT rps_fractional=100",
        "TEXT cpu_utilization=0.5",
    ] {
        check(bad, None);
    }
}

#[test]
fn json_is_read_as_envoy_reads_it() {
    let check = |value: &str, wanted| {
        let value = format!("JSON {value}");
        assert_eq!(weight(&[("endpoint-load-metrics", &value)], &client_side(&["named_metrics.foo"], 0.0)), wanted);
    };
    check(r#"{"rpsFractional":100,"cpuUtilization":0.5}"#, Some(200));
    check(r#"{"rps_fractional":100,"cpu_utilization":"0.25"}"#, Some(400));
    check(r#"{"rps_fractional":100,"named_metrics":{"foo":0.25},"utilization":{"a":0.1,"b":0.2}}"#, Some(400));
    check(r#"{"rps_fractional":100,"cpu_utilization":0.5,"nonsense":1}"#, None);
    check("nonsense", None);
}

#[test]
fn binary_reports_are_read_and_come_first() {
    let double = |field: u8, value: f64| [&[field << 3 | 1][..], &value.to_le_bytes()].concat();
    let named = |field: u8, name: &str, value: f64| {
        let name = [&[10, name.len() as u8][..], name.as_bytes(), &[0x11], &value.to_le_bytes()].concat();
        [&[field << 3 | 2, name.len() as u8][..], &name].concat()
    };
    let config = client_side(&["named_metrics.foo", "utilization.*"], 0.0);
    let check = |bytes: &[u8], wanted| {
        let value = BASE64_STANDARD.encode(bytes);
        assert_eq!(weight(&[("endpoint-load-metrics", &format!("BIN {value}"))], &config), wanted);
        let text = ("endpoint-load-metrics", "TEXT rps_fractional=1,cpu_utilization=1");
        assert_eq!(weight(&[("endpoint-load-metrics-bin", value.trim_end_matches('=')), text], &config), wanted);
    };
    let plain = [double(6, 100.0), double(1, 0.5)].concat();
    check(&plain, Some(200));
    check(&[double(6, 100.0), double(9, 0.1)].concat(), Some(1000));
    check(&[plain.clone(), named(8, "foo", 0.25), named(5, "b", 0.2), named(4, "z", 0.125)].concat(), Some(400));
    // The whole number of requests of former times.
    check(&[&[0x18, 0x64][..], &double(1, 0.5)].concat(), None);
    check(&plain[..12], None);
    assert_eq!(weight(&[("endpoint-load-metrics-bin", "")], &config), None);
}

#[test]
fn utilization_is_the_largest_of_the_metrics_that_were_asked_for_and_errors_add_to_it() {
    let config = client_side(&["named_metrics.foo", "utilization.*", "mem_utilization"], 2.0);
    let check = |more: &str, wanted| {
        let value = format!("TEXT rps_fractional=100,cpu_utilization=0.5{more}");
        assert_eq!(weight(&[("endpoint-load-metrics", &value)], &config), Some(wanted), "{more}");
    };
    check(",eps=10", 142);
    check(",named_metrics.foo=0.25", 400);
    check(",utilization.bar=0.2", 500);
    check(",mem_utilization=0.1", 1000);
    check(",application_utilization=1,named_metrics.foo=0.25", 400);
    check(",application_utilization=1", 100);
}

#[tokio::test(start_paused = true)]
async fn a_weight_counts_after_the_blackout_until_it_expires() {
    let client_side = client_side(&[], 0.0);
    let lb = LbPolicy::of(Algorithm::ClientSide(client_side));
    let cluster = cluster(config(|c| c.lb = lb), &Assignment::of(endpoints(3)));
    let weights = || {
        cluster.refresh();
        cluster.endpoints().map(|endpoint| cluster.weight_of(endpoint)).collect::<Vec<_>>()
    };
    let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
    let report = |index: usize, weight| {
        cluster.endpoints().nth(index).unwrap().state.reported().note(weight, stamp(Instant::now()));
    };
    assert_eq!(weights(), [1, 1, 1]);
    report(0, 10);
    report(1, 30);
    assert_eq!(weights(), [1, 1, 1]);
    pass(9).await;
    assert_eq!(weights(), [1, 1, 1]);
    assert_eq!(cluster.next_refresh(), Some(Instant::now() + Duration::from_secs(1)));
    pass(1).await;
    // The third one has the median of the others.
    assert_eq!(weights(), [10, 30, 30]);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut first = 0;
    for _ in 0..70 {
        let picked = cluster.pick(&mut crate::PickContext::new(&mut rng, 0)).unwrap();
        first += usize::from(Arc::ptr_eq(&picked, cluster.endpoints().next().unwrap()));
    }
    assert_eq!(first, 10);
    pass(100).await;
    report(1, 20);
    pass(81).await;
    assert_eq!(weights(), [20, 20, 20]);
    // It has to report for a while again.
    report(0, 5);
    pass(9).await;
    assert_eq!(weights()[0], 20);
    pass(1).await;
    assert_eq!(weights()[0], 5);
}
