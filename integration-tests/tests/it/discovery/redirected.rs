//! Connections that the kernel redirects to the proxy (`iptables … REDIRECT`), which finds out where they were going.
//!
//! Runs in a network namespace of its own, in a process of its own; where that is not allowed it says so and is skipped.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::*;

/// Set in the process within the namespace.
const WITHIN: &str = "WEIR_TEST_NETWORK";
const NAME: &str = "discovery::redirected::a_connection_that_was_redirected_goes_where_it_was_going";
const LIMIT: Duration = Duration::from_secs(60);
/// Who connects from here is the proxy, and is not redirected again.
const FROM_PROXY: &str = "127.0.0.9";

fn run(command: &str, arguments: &str) -> bool {
    Command::new(command).args(arguments.split(' ')).output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_connection_that_was_redirected_goes_where_it_was_going() {
    if std::env::var_os(WITHIN).is_some() {
        return within();
    }
    if !run("unshare", "-n ip link set lo up") || !run("unshare", "-n iptables -t nat -L -n") {
        return integration_tests::skip::skipped(NAME, "no network namespace or no iptables here");
    }
    let this = std::env::current_exe().unwrap();
    let child = Command::new("unshare").arg("-n").arg(this).args(["--exact", NAME]).env(WITHIN, "1").spawn();
    assert!(ends_well(child.unwrap()), "the test within the namespace failed");
}

fn ends_well(mut child: Child) -> bool {
    let began = Instant::now();
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status.success(),
            None if began.elapsed() > LIMIT => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn within() {
    assert!(run("ip", "link set lo up"));
    let origins = ["127.0.0.2:0", "127.0.0.3:0"].map(|at| {
        Origin::scripted_at(at.parse().unwrap(), |_, wire, origin| {
            let from = wire.socket().peer_addr().unwrap().ip();
            while wire.head().is_some() {
                let text = format!("{} from {from}", origin.address);
                wire.send(integration_tests::upstream::reply(200, &text));
            }
        })
    });
    let original = json!({
        "name": "original",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "upstream_bind_config": { "source_address": { "address": FROM_PROXY, "port_value": 0 } },
    });
    let config = |network: Value| {
        let mut listener = listener("main", network);
        listener["listener_filters"] = json!([extension("filters.listener.original_dst.v3.OriginalDst", json!({}))]);
        bootstrap(vec![listener], vec![original.clone()])
    };
    for network in [hcm(to("original", json!({}))), tcp_proxy("original", json!({}))] {
        let proxy = start(&config(network));
        let to = proxy.address("main").port();
        for origin in &origins {
            let (ip, port) = (origin.address.ip(), origin.address.port());
            let rule = format!("-d {ip} ! -s {FROM_PROXY} -p tcp --dport {port} -j REDIRECT --to-ports {to}");
            assert!(run("iptables", &format!("-t nat -I OUTPUT {rule}")));
            let answer = Wire::connect(origin.address).ask(GET);
            assert_eq!(answer.text(), format!("{} from {FROM_PROXY}", origin.address), "the proxy was in between");
            assert!(run("iptables", &format!("-t nat -D OUTPUT {rule}")));
        }
    }
}
