//! Hedged requests: a slow try goes on while another one is made, and the first good answer wins.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use integration_tests::config::{bootstrap, cluster, hcm, listener, to, with_admin};
use integration_tests::eventually::eventually;
use integration_tests::proxy::{Running, start};
use integration_tests::upstream::{Origin, reply};
use serde_json::json;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";

fn run(origin: &Origin, retries: u32) -> Running {
    let action = json!({
        "timeout": "60s",
        "retry_policy": {
            "retry_on": "5xx", "num_retries": retries, "per_try_timeout": "0.1s",
            "retry_back_off": { "base_interval": "0.001s" },
        },
        "hedge_policy": { "hedge_on_per_try_timeout": true },
    });
    let clusters = vec![cluster("origin", &[origin.address])];
    start(&with_admin(bootstrap(vec![listener("main", hcm(to("origin", action)))], clusters)))
}

#[test]
fn the_second_try_wins_and_the_first_is_reset() {
    let reset = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&reset);
    let origin = Origin::scripted(move |number, wire, origin| {
        origin.note(wire.message());
        if number == 0 {
            wire.rest();
            seen.store(true, Ordering::SeqCst);
        } else {
            wire.send(reply(200, "second"));
            wire.rest();
        }
    });
    let proxy = run(&origin, 1);
    assert_eq!(proxy.connect().ask(POST).text(), "second");
    assert_eq!(origin.seen().iter().map(|request| request.text()).collect::<Vec<_>>(), ["body", "body"]);
    eventually("the slow try is reset", || reset.load(Ordering::SeqCst));
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry"), 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_per_try_timeout"), 0);
    eventually("nothing is active", || proxy.stat("cluster.origin.upstream_rq_active") == 0);
}

#[test]
fn the_first_try_may_still_win() {
    let (second_came, wait) = mpsc::channel();
    let (second_came, wait) = (std::sync::Mutex::new(second_came), std::sync::Mutex::new(wait));
    let origin = Origin::scripted(move |number, wire, _| {
        wire.message();
        if number == 0 {
            wait.lock().unwrap().recv().unwrap();
            wire.send(reply(200, "first"));
        } else {
            second_came.lock().unwrap().send(()).unwrap();
        }
        wire.rest();
    });
    let proxy = run(&origin, 1);
    let mut client = proxy.connect();
    assert_eq!(client.ask(GET).text(), "first");
    eventually("nothing is active", || proxy.stat("cluster.origin.upstream_rq_active") == 0);
}

#[test]
fn a_bad_answer_does_not_win_while_another_try_runs() {
    let (second_failed, wait) = mpsc::channel();
    let (second_failed, wait) = (std::sync::Mutex::new(second_failed), std::sync::Mutex::new(wait));
    let origin = Origin::scripted(move |number, wire, _| {
        wire.message();
        if number == 0 {
            wait.lock().unwrap().recv().unwrap();
            // So that the bad answer is surely there first.
            std::thread::sleep(Duration::from_millis(100));
            wire.send(reply(200, "late but good"));
        } else {
            wire.send(reply(503, "bad"));
            second_failed.lock().unwrap().send(()).unwrap();
        }
        wire.rest();
    });
    let proxy = run(&origin, 1);
    assert_eq!(proxy.connect().ask(GET).text(), "late but good");
}

#[test]
fn when_all_tries_fail_the_last_answer_is_passed_on() {
    let (second_failed, wait) = mpsc::channel();
    let (second_failed, wait) = (std::sync::Mutex::new(second_failed), std::sync::Mutex::new(wait));
    let origin = Origin::scripted(move |number, wire, _| {
        wire.message();
        if number == 0 {
            wait.lock().unwrap().recv().unwrap();
            std::thread::sleep(Duration::from_millis(100));
            wire.send(reply(502, "worst"));
        } else {
            wire.send(reply(503, "bad"));
            second_failed.lock().unwrap().send(()).unwrap();
        }
        wire.rest();
    });
    let proxy = run(&origin, 1);
    let answer = proxy.connect().ask(GET);
    assert_eq!((answer.status(), answer.text()), (502, "worst".into()));
}

#[test]
fn a_slow_try_without_retries_left_is_waited_for() {
    let origin = Origin::scripted(|_, wire, _| {
        wire.message();
        std::thread::sleep(Duration::from_millis(400));
        wire.send(reply(200, "slow"));
        wire.rest();
    });
    let proxy = run(&origin, 0);
    assert_eq!(proxy.connect().ask(GET).text(), "slow");
    assert_eq!(origin.connections(), 1);
}
