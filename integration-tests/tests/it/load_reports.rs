//! Endpoints that are asked for reports of their load, by streams beside the requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use integration_tests::client;
use integration_tests::config::{bootstrap, cluster, extension, hcm, http2, listener, merge, to, with_admin};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start};
use serde_json::json;

const PATH: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// `OrcaLoadReport { cpu_utilization, rps_fractional }` in a frame.
fn report(cpu: f64, requests: f64) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_slice(&[0, 0, 0, 0, 18]);
    for (key, value) in [(1 << 3 | 1, cpu), (6 << 3 | 1, requests)] {
        frame.put_u8(key);
        frame.put_f64_le(value);
    }
    frame.freeze()
}

/// What an endpoint does when it is asked for reports.
#[derive(Clone, Copy)]
enum Reports {
    /// Sends one, and leaves the stream open.
    Once { cpu: f64 },
    /// Sends one, ends the stream, and says the other one to whoever asks again.
    Again { first: f64, then: f64 },
    /// Knows of no such service.
    Never,
}

/// An endpoint that answers requests with its name; how often it was asked for reports.
async fn endpoint(name: &'static str, reports: Reports) -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let address = client::origin(None, move |request: Request<h2::RecvStream>, mut respond| {
        let nth = if request.uri().path() == PATH { Some(counted.fetch_add(1, SeqCst)) } else { None };
        async move {
            match nth {
                None => client::answer(&mut respond, 200, name),
                Some(nth) => {
                    let (_, mut body) = request.into_parts();
                    let (asked, _) = client::drain(&mut body).await.unwrap();
                    // A second, 0.2 s.
                    assert_eq!(asked, [0, 0, 0, 0, 7, 0x0a, 5, 16, 0x80, 0x84, 0xaf, 0x5f]);
                    tell(&mut respond, reports, nth).await;
                }
            }
        }
    });
    (address.await, asked)
}

async fn tell(respond: &mut SendResponse<Bytes>, reports: Reports, nth: usize) {
    let head = Response::builder().status(200).header("content-type", "application/grpc");
    let status = |status: &str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
    let cpu = match reports {
        Reports::Once { cpu } => cpu,
        Reports::Again { first, then } => [first, then][nth.min(1)],
        Reports::Never => {
            let head = head.header("grpc-status", "12").body(()).unwrap();
            let _ = respond.send_response(head, true);
            return;
        }
    };
    let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
    stream.send_data(report(cpu, 100.0), false).unwrap();
    match reports {
        Reports::Again { .. } if nth == 0 => stream.send_trailers(status("14")).unwrap(),
        // Until the client goes.
        _ => drop(std::future::poll_fn(|cx| stream.poll_reset(cx)).await),
    }
}

fn proxy(endpoints: &[SocketAddr]) -> Running {
    let mut cluster = http2(cluster("origin", endpoints));
    let kind = "load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
    let policy = json!({
        "blackout_period": "0s",
        "weight_update_period": "0.1s",
        "enable_oob_load_report": true,
        "oob_reporting_period": "0.2s",
    });
    let policies = json!([{ "typed_extension_config": extension(kind, policy) }]);
    merge(&mut cluster, json!({ "load_balancing_policy": { "policies": policies } }));
    start(&with_admin(bootstrap(vec![listener("main", hcm(to("origin", json!({}))))], vec![cluster])))
}

fn answers(proxy: &Running, requests: usize) -> BTreeMap<String, usize> {
    let mut client = proxy.connect();
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(client.ask(GET).text()).or_default() += 1;
    }
    counts
}

fn stat(proxy: &Running, name: &str) -> u64 {
    proxy.stat(&format!("cluster.origin.{name}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_asked_how_much_they_can_take() {
    let (idle, _) = endpoint("idle", Reports::Once { cpu: 0.1 }).await;
    let (busy, _) = endpoint("busy", Reports::Once { cpu: 0.4 }).await;
    let (silent, _) = endpoint("silent", Reports::Never).await;
    tokio::task::spawn_blocking(move || {
        let proxy = proxy(&[idle, busy, silent]);
        eventually("both have reported", || stat(&proxy, "max_host_weight") == 1000);
        eventually("one never does", || stat(&proxy, "lb_orca_oob.stream_terminated") == 1);
        eventually("two are asked", || stat(&proxy, "lb_orca_oob.active_sessions") == 2);
        // 1000, 250, and the greater of two as the median.
        eventually("requests go by it", || {
            let counts = answers(&proxy, 45);
            (16..=24).contains(&counts["idle"]) && (2..=8).contains(&counts["busy"])
        });
        assert!(stat(&proxy, "lb_orca_oob.reports_received") >= 2);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_is_begun_anew() {
    let (endpoint, asked) = endpoint("a", Reports::Again { first: 0.5, then: 0.1 }).await;
    tokio::task::spawn_blocking(move || {
        let proxy = proxy(&[endpoint]);
        eventually("the second report", || stat(&proxy, "max_host_weight") == 1000);
        assert!(asked.load(SeqCst) >= 2);
        assert!(stat(&proxy, "lb_orca_oob.stream_failures") >= 1);
        // Nothing was reported for three periods.
        eventually("it is asked again", || asked.load(SeqCst) >= 4);
        assert_eq!(answers(&proxy, 1)["a"], 1);
    })
    .await
    .unwrap();
}
