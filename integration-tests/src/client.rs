//! HTTP/2 by the `h2` crate, for clients and origins: with prior knowledge, or inside TLS by ALPN.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::eventually::PATIENCE;

/// A client connection: opens streams, and ends with what the connection ended with.
pub struct Client {
    pub requests: SendRequest<Bytes>,
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// Fails a test that waits for too long.
///
/// # Panics
/// The future does not end within [`PATIENCE`].
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it did not happen in time")
}

// === impl Client ===

impl Client {
    /// # Panics
    /// Nothing there speaks HTTP/2.
    pub async fn connect(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).await.expect("something listens there")).await
    }

    /// # Panics
    /// The handshake fails, or does not choose HTTP/2.
    pub async fn connect_tls(to: SocketAddr, config: Arc<rustls::ClientConfig>) -> Self {
        let stream = TcpStream::connect(to).await.expect("something listens there");
        let name = ServerName::try_from("localhost").expect("it is a name");
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.expect("the handshake works");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(stream).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (requests, connection) = h2::client::handshake(stream).await.expect("an HTTP/2 connection begins");
        Self { requests, driver: tokio::spawn(connection) }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// What the connection or the stream ended with.
    pub async fn open(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.requests.clone().ready().await?.send_request(request, end)
    }

    /// Sends a request with this body and reads the whole response.
    ///
    /// # Errors
    /// What the stream was reset with.
    pub async fn ask(&self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let (response, mut up) = self.open(request, body.is_empty()).await?;
        if !body.is_empty() {
            push(&mut up, Bytes::copy_from_slice(body), true).await?;
        }
        soon(collect(response.await?)).await
    }

    /// GET of a path.
    ///
    /// # Errors
    /// What the stream was reset with.
    pub async fn get(&self, path: &str) -> Result<Answer, h2::Error> {
        self.ask(request("GET", path), b"").await
    }
}

/// Opens a WebSocket by an extended CONNECT (RFC 8441).
///
/// # Panics
/// The server does not offer it, or refuses this one.
pub async fn websocket(client: &Client, path: &str) -> (SendStream<Bytes>, RecvStream) {
    // The settings of the server come with the first answer at the latest.
    let _ = soon(client.get("/")).await;
    soon(async {
        while !client.requests.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut head = request("CONNECT", path);
    head.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    head.headers_mut().insert("sec-websocket-version", http::HeaderValue::from_static("13"));
    let (response, up) = client.open(head, false).await.expect("a stream");
    let response = soon(response).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("upgrade"));
    (up, response.into_body())
}

/// The head of a request to the host `it.test`.
///
/// # Panics
/// It is none.
pub fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://it.test{path}")).body(()).expect("the head is good")
}

/// Reads a response to its end.
///
/// # Errors
/// What the stream was reset with.
pub async fn collect(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.into_parts();
    let (bytes, trailers) = drain(&mut body).await?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: bytes, trailers })
}

/// Reads a body to its end.
///
/// # Errors
/// What the stream was reset with.
pub async fn drain(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        // The stream ends when the window cannot be given back.
        let _ = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await?;
    Ok((bytes, trailers))
}

/// Sends all of `data` as the peer makes room for it.
///
/// # Errors
/// What the stream was reset with.
pub async fn push(up: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        up.reserve_capacity(data.len().min(64 * 1024));
        match std::future::poll_fn(|cx| up.poll_capacity(cx)).await {
            Some(room) => {
                let piece = data.split_to(room?.min(data.len()));
                up.send_data(piece, end && data.is_empty())?;
            }
            None => return Err(h2::Reason::STREAM_CLOSED.into()),
        }
    }
    Ok(())
}

/// An HTTP/2 origin that runs `serve` for each stream; it lives as long as the runtime of the test.
///
/// # Panics
/// The loopback has no free port.
pub async fn origin<F, S>(tls: Option<Arc<rustls::ServerConfig>>, serve: F) -> SocketAddr
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> S + Send + Sync + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let serve = Arc::new(serve);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (serve, tls) = (Arc::clone(&serve), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => connection(stream, serve).await,
                    Some(config) => {
                        if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(stream).await {
                            connection(stream, serve).await;
                        }
                    }
                }
            });
        }
    });
    address
}

async fn connection<F, S>(stream: impl AsyncRead + AsyncWrite + Unpin, serve: Arc<F>)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    let Ok(mut connection) = builder.enable_connect_protocol().handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(serve(request, respond));
    }
}

/// Answers a stream with this status and text.
pub fn answer(respond: &mut SendResponse<Bytes>, status: u16, text: &str) {
    let head = Response::builder().status(status).body(()).expect("the head is good");
    if let Ok(mut down) = respond.send_response(head, text.is_empty())
        && !text.is_empty()
    {
        // A stream that was reset has nobody to tell.
        let _ = down.send_data(Bytes::copy_from_slice(text.as_bytes()), true);
    }
}

/// Gives other tasks a moment.
pub async fn moment() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}
