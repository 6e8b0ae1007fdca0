//! HTTP/2 on either side, and between HTTP/1 and HTTP/2.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Response, Version};
use integration_tests::client::{self, Client, collect, push, request, soon};
use integration_tests::config::{bootstrap, cluster, hcm, http2, listener, merge, simple, to};
use integration_tests::proxy::{Running, start};
use integration_tests::tls::Identity;
use integration_tests::upstream::{Origin, reply};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const MEGABYTE: usize = 1024 * 1024;

/// A proxy with trailers enabled for HTTP/1 on both sides.
fn proxy(cluster: Value) -> Running {
    let mut hcm = hcm(to("origin", json!({})));
    hcm["http_protocol_options"] = json!({ "enable_trailers": true });
    start(&bootstrap(vec![listener("main", hcm)], vec![cluster]))
}

fn http1(mut cluster: Value) -> Value {
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http_protocol_options": { "enable_trailers": true } },
        },
    });
    cluster
}

/// Sends the request back, body and trailers, as it comes.
async fn echo(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    assert_eq!(request.version(), Version::HTTP_2);
    let (head, mut body) = request.into_parts();
    let response = Response::builder().header("x-path", head.uri.path()).header("x-method", head.method.as_str());
    let Ok(mut down) = respond.send_response(response.body(()).unwrap(), false) else { return };
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        if push(&mut down, piece, false).await.is_err() {
            return;
        }
    }
    let _ = match body.trailers().await {
        Ok(Some(trailers)) => down.send_trailers(trailers),
        Ok(None) => down.send_data(Bytes::new(), true),
        Err(_) => return,
    };
}

fn http1_echo() -> Origin {
    Origin::scripted(|_, wire, origin| {
        while let Some(request) = wire.try_message() {
            let trailers: String = request.trailers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
            let mut bytes =
                format!("HTTP/1.1 200 OK\r\nx-path: {}\r\ntransfer-encoding: chunked\r\n\r\n", request.path())
                    .into_bytes();
            if !request.body.is_empty() {
                bytes.extend(format!("{:x}\r\n", request.body.len()).into_bytes());
                bytes.extend(&request.body);
                bytes.extend(b"\r\n");
            }
            bytes.extend(format!("0\r\n{trailers}\r\n").into_bytes());
            origin.note(request);
            wire.send(bytes);
        }
    })
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    trailers
}

/// Sends a body with trailers over HTTP/2 and expects both back.
async fn exchange_http2(proxy: &Running) {
    let client = Client::connect(proxy.address("main")).await;
    let answer = soon(client.get("/get")).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.headers["x-path"], "/get");
    let (response, mut up) = client.open(request("POST", "/post"), false).await.unwrap();
    push(&mut up, Bytes::from_static(b"hello"), false).await.unwrap();
    up.send_trailers(trailers()).unwrap();
    let answer = soon(collect(soon(response).await.unwrap())).await.unwrap();
    assert_eq!((&answer.body[..], answer.trailers), (&b"hello"[..], Some(trailers())));
}

/// The same over HTTP/1.
fn exchange_http1(proxy: &Running) {
    let mut client = proxy.connect();
    let answer = client.ask("GET /get HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!((answer.status(), answer.header("x-path"), answer.complete), (200, Some("/get"), true));
    let head = "POST /post HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = client.ask(format!("{head}5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n"));
    assert_eq!((answer.text(), answer.complete), ("hello".into(), true));
    assert_eq!(answer.trailers, [("x-sum".into(), "42".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_and_http2_meet_in_all_four_ways() {
    let two = client::origin(None, echo).await;
    let one = http1_echo();
    for cluster in [http2(cluster("origin", &[two])), http1(cluster("origin", &[one.address]))] {
        let proxy = proxy(cluster);
        exchange_http2(&proxy).await;
        exchange_http1(&proxy);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_chooses_http2_by_alpn_on_both_sides() {
    let identity = Identity::new(&["localhost"]);
    let origin = client::origin(Some(identity.server(&[b"h2"])), echo).await;
    let mut cluster = http2(cluster("origin", &[origin]));
    cluster["transport_socket"] = identity.upstream();
    let mut listener = listener("main", hcm(to("origin", json!({}))));
    listener["filter_chains"][0]["transport_socket"] = identity.downstream(&["h2", "http/1.1"]);
    let proxy = start(&bootstrap(vec![listener], vec![cluster]));
    let client = Client::connect_tls(proxy.address("main"), identity.client(&[b"h2"])).await;
    let answer = soon(client.ask(request("POST", "/tls"), b"secret")).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"secret"[..]));

    let address = proxy.address("main");
    let config = identity.client(&[b"http/1.1"]);
    let text = tokio::task::spawn_blocking(move || {
        over_tls(address, config, "GET /old HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    });
    let text = soon(text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("x-path: /old"), "{text}");
}

/// What comes back over TLS until the end.
fn over_tls(address: std::net::SocketAddr, config: Arc<rustls::ClientConfig>, request: &str) -> String {
    use std::io::{Read, Write};
    let connection = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, std::net::TcpStream::connect(address).unwrap());
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_many_streams_side_by_side() {
    let origin = client::origin(None, echo).await;
    let proxy = proxy(http2(cluster("origin", &[origin])));
    let client = Arc::new(Client::connect(proxy.address("main")).await);
    let tasks: Vec<_> = (0..4u8)
        .map(|i| {
            let client = Arc::clone(&client);
            tokio::spawn(async move {
                let body = vec![i; 3 * MEGABYTE];
                let (response, mut up) = client.open(request("POST", "/"), false).await.unwrap();
                let sent = Bytes::from(body.clone());
                let sending = tokio::spawn(async move { push(&mut up, sent, true).await });
                let answer = soon(collect(soon(response).await.unwrap())).await.unwrap();
                soon(sending).await.unwrap().unwrap();
                assert!(answer.body == body);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_stream_at_the_same_time() {
    let origin = client::origin(None, echo).await;
    let proxy = proxy(http2(cluster("origin", &[origin])));
    let client = Client::connect(proxy.address("main")).await;
    let (response, mut up) = client.open(request("POST", "/"), false).await.unwrap();
    let response = soon(response).await.unwrap();
    let mut body = response.into_body();
    for word in ["one", "two", "three"] {
        push(&mut up, Bytes::from_static(word.as_bytes()), false).await.unwrap();
        let piece = soon(body.data()).await.unwrap().unwrap();
        assert_eq!(&piece[..], word.as_bytes());
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    up.send_data(Bytes::new(), true).unwrap();
    assert!(soon(body.data()).await.is_none_or(|last| last.is_ok_and(|last| last.is_empty())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_the_client_resets_the_stream_at_the_origin() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let origin = client::origin(None, move |_request, mut respond| {
        let tell = tell.clone();
        async move {
            tell.send(None).unwrap();
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            let _ = tell.send(reason.ok());
        }
    })
    .await;
    let proxy = proxy(http2(cluster("origin", &[origin])));
    let client = Client::connect(proxy.address("main")).await;
    let (_response, mut up) = client.open(request("POST", "/"), false).await.unwrap();
    assert_eq!(soon(told.recv()).await, Some(None));
    up.send_reset(Reason::CANCEL);
    assert_eq!(soon(told.recv()).await, Some(Some(Reason::CANCEL)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_the_client_closes_the_http1_connection_to_the_origin() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let origin = Origin::scripted(move |_, wire, _| {
        wire.message();
        tell.send(false).unwrap();
        let _ = tell.send(wire.is_closed());
    });
    let proxy = proxy(http1(cluster("origin", &[origin.address])));
    let client = Client::connect(proxy.address("main")).await;
    let (response, mut up) = client.open(request("GET", "/"), true).await.unwrap();
    assert_eq!(soon(told.recv()).await, Some(false));
    up.send_reset(Reason::CANCEL);
    drop(response);
    assert_eq!(soon(told.recv()).await, Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_the_origin_is_an_answer_before_the_head_and_a_reset_after_it() {
    let origin = client::origin(None, |request, mut respond| async move {
        if request.uri().path() == "/early" {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return;
        }
        let mut down = respond.send_response(Response::new(()), false).unwrap();
        down.send_data(Bytes::from_static(b"part"), false).unwrap();
        client::moment().await;
        down.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let proxy = proxy(http2(cluster("origin", &[origin])));
    let client = Client::connect(proxy.address("main")).await;
    let answer = soon(client.get("/early")).await.unwrap();
    assert_eq!(answer.status, 503);
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(text, "upstream connect error or disconnect/reset before headers. reset reason: remote reset");
    let error = soon(client.get("/late")).await.unwrap_err();
    assert!(error.is_reset(), "{error}");

    let mut client = proxy.connect();
    let late = client.ask("GET /late HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(!late.complete);
    assert!(client.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_sends_goaway_and_lets_streams_finish() {
    let finish = Arc::new(tokio::sync::Notify::new());
    let (waiting, started) = (Arc::clone(&finish), Arc::new(tokio::sync::Notify::new()));
    let begun = Arc::clone(&started);
    let origin = client::origin(None, move |_request, mut respond| {
        let (waiting, begun) = (Arc::clone(&waiting), Arc::clone(&begun));
        async move {
            begun.notify_one();
            waiting.notified().await;
            client::answer(&mut respond, 200, "done");
        }
    })
    .await;
    let proxy = proxy(http2(cluster("origin", &[origin])));
    let client = Client::connect(proxy.address("main")).await;
    let (response, _up) = client.open(request("GET", "/"), true).await.unwrap();
    soon(started.notified()).await;
    proxy.proxy.shut_down();
    soon(async {
        // Refused once the GOAWAY came.
        while client.requests.clone().ready().await.is_ok() {
            client::moment().await;
        }
    })
    .await;
    finish.notify_one();
    let answer = soon(collect(soon(response).await.unwrap())).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"done"[..]));
    drop(client.requests);
    let _ = soon(client.driver).await.unwrap();
    soon(tokio::task::spawn_blocking(move || proxy.proxy.join())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_refused_by_the_origin_is_sent_again() {
    let seen = Arc::new(Mutex::new(0));
    let count = Arc::clone(&seen);
    let origin = client::origin(None, move |_request, mut respond| {
        let first = {
            let mut count = count.lock().unwrap();
            *count += 1;
            *count == 1
        };
        async move {
            if first {
                respond.send_reset(Reason::REFUSED_STREAM);
            } else {
                client::answer(&mut respond, 200, "again");
            }
        }
    })
    .await;
    let mut hcm = hcm(to("origin", json!({ "retry_policy": { "retry_on": "refused-stream" } })));
    merge(&mut hcm, json!({}));
    let proxy = start(&bootstrap(vec![listener("main", hcm)], vec![http2(cluster("origin", &[origin]))]));
    let client = Client::connect(proxy.address("main")).await;
    let answer = soon(client.get("/")).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"again"[..]));
    assert_eq!(*seen.lock().unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_are_joined_for_http1_and_the_authority_becomes_the_host() {
    let origin = Origin::http(|_| reply(200, "ok"));
    let proxy = start(&simple(hcm(to("origin", json!({}))), origin.address));
    let client = Client::connect(proxy.address("main")).await;
    let head = http::Request::builder().uri("http://name.test/x?y=z").header("cookie", "a=1").header("cookie", "b=2");
    let answer = soon(client.ask(head.body(()).unwrap(), b"")).await.unwrap();
    assert_eq!(answer.status, 200);
    let seen = origin.last();
    assert_eq!(seen.start, "GET /x?y=z HTTP/1.1");
    assert_eq!((seen.header("host"), seen.header("cookie")), (Some("name.test"), Some("a=1; b=2")));
    assert_eq!(seen.headers.iter().filter(|(name, _)| name.starts_with(':')).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_goes_away_gets_a_new_connection() {
    let address = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    if let Some(Ok((_, mut respond))) = connection.accept().await {
                        client::answer(&mut respond, 200, "one each");
                        connection.graceful_shutdown();
                        while connection.accept().await.is_some() {}
                    }
                });
            }
        });
        address
    };
    let proxy = proxy(http2(cluster("origin", &[address])));
    let client = Client::connect(proxy.address("main")).await;
    for _ in 0..5 {
        let answer = soon(client.get("/")).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"one each"[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_the_request_arrives_whole() {
    let routes = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 403, "body": { "inline_string": "no" } } }]);
    let proxy = start(&bootstrap(vec![listener("main", hcm(routes))], vec![]));
    let client = Client::connect(proxy.address("main")).await;
    for _ in 0..5 {
        let (response, mut up) = client.open(request("POST", "/"), false).await.unwrap();
        // The answer may come, and close the stream, before this is sent.
        let _ = push(&mut up, Bytes::from_static(b"part"), false).await;
        let answer = soon(collect(soon(response).await.unwrap())).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (403, &b"no"[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_without_a_body_end_with_their_head() {
    let origin = Origin::http(|request| match request.method() {
        "HEAD" => b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
    });
    let proxy = start(&simple(hcm(to("origin", json!({}))), origin.address));
    let client = Client::connect(proxy.address("main")).await;
    let answer = soon(client.ask(request("HEAD", "/"), b"")).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.headers["content-length"], "99");
    let answer = soon(client.get("/")).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (204, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_answer_one_stream_and_leave_the_others() {
    let origin = Origin::scripted(|_, wire, _| {
        while let Some(request) = wire.try_message() {
            if request.path() != "/never" {
                wire.send(reply(200, "fine"));
            }
        }
    });
    let proxy = start(&simple(hcm(to("origin", json!({ "timeout": "0.1s" }))), origin.address));
    let client = Client::connect(proxy.address("main")).await;
    let (never, fine) = tokio::join!(soon(client.get("/never")), soon(client.get("/")));
    assert_eq!((never.unwrap().status, fine.unwrap().status), (504, 200));
    assert_eq!(soon(client.get("/")).await.unwrap().status, 200);
}
