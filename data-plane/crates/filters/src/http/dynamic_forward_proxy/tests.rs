//! Hosts that are found at once, later or never.

use std::time::{Instant, SystemTime};

use dp_http::{Method, Protocol, StreamInfo};

use super::*;
use crate::testing::{FixedNames, connection};

/// Status of the answer (200 when the request goes on), its details, and the host that goes on.
async fn sent(rewrite: Option<Override>, mut head: RequestHead, port: Option<u16>) -> (u16, String, String) {
    let filter = DynamicForwardProxy { names: Arc::new(FixedNames), rewrite };
    let mut info = StreamInfo::new(Arc::new(connection()), Protocol::Http11, SystemTime::UNIX_EPOCH, Instant::now());
    let mut cx = Cx::request(&mut info, Instant::now());
    cx.forward_port = port;
    let reply = match filter.on_request(&mut (), &mut cx, &mut head) {
        Flow::Reply(reply) => Some(reply),
        Flow::Wait(wait) => match wait.await {
            Verdict::Reply(reply) => Some(reply),
            Verdict::Continue(_) | Verdict::Reroute(_) => None,
        },
        Flow::Continue | Flow::Reroute => None,
    };
    let (status, details) = reply.map_or((200, String::new()), |reply| (reply.status, reply.details.into_owned()));
    (status, details, head.authority().to_owned())
}

async fn check(rewrite: Option<Override>, host: &str, status: u16, details: &str, sent_to: &str) {
    let mut head = RequestHead::new(Method::Get, host, "/");
    head.headers.append("x-host", b"known.header");
    let outcome = sent(rewrite, head, Some(80)).await;
    assert_eq!(outcome, (status, details.to_owned(), sent_to.to_owned()));
}

#[tokio::test]
async fn a_request_goes_on_when_its_host_is_found() {
    check(None, "known.a", 200, "", "known.a").await;
    check(None, "slow.a", 200, "", "slow.a").await;
    check(None, "wrong.a", 503, "dns_resolution_failure", "wrong.a").await;
    check(None, "full.a", 503, "dns_cache_overflow", "full.a").await;
    check(None, "busy.a", 503, "dynamic_forward_proxy_pending_request_overflow", "busy.a").await;
}

#[tokio::test]
async fn a_route_may_say_which_host_is_meant() {
    check(Some(Override::Literal("known.route".into())), "wrong.a", 200, "", "known.route").await;
    check(Some(Override::Header("x-host".into())), "wrong.a", 200, "", "known.header").await;
    check(Some(Override::Header("x-none".into())), "known.a", 200, "", "known.a").await;
}

#[tokio::test]
async fn other_clusters_and_requests_without_a_host_are_told_apart() {
    let head = |host: &str| RequestHead::new(Method::Get, host, "/");
    assert_eq!(sent(None, head("wrong.a"), None).await.0, 200);
    assert_eq!(sent(None, head("slow.a"), Some(443)).await.0, 503, "the port of the cluster counts");
    assert_eq!(sent(None, head(""), Some(80)).await, (400, "empty_host_header".into(), String::new()));
}
