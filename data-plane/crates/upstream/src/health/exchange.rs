//! One request and its whole answer over a connection of its own, which may serve the next check too.
//!
//! Not the pools of the workers: checks run on the control thread, count in no breaker and are no traffic.

use std::future::poll_fn;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use dp_http::stream::{ClientStream, StreamError, StreamErrorKind};
use dp_http::{Frame, Headers, RequestHead, ResponseHead, h1, h2};
use tokio::task::AbortHandle;

use super::dial::Subject;
use super::status::Failure;
use crate::pool::connect::Wanted;

/// A connection that is kept between checks.
pub(super) enum Kept {
    Http1(Box<h1::ClientConn>),
    Http2(Http2),
}

/// An HTTP/2 connection with the task that drives it; the task ends with it.
pub(super) struct Http2 {
    handle: h2::ClientConn,
    driver: AbortHandle,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(super) struct Request {
    pub head: RequestHead,
    /// Empty for none.
    pub body: Bytes,
    pub wanted: Wanted,
    /// How much of the answer's body is wanted.
    pub keep: usize,
}

pub(super) struct Answer {
    pub head: ResponseHead,
    pub body: BytesMut,
    pub trailers: Option<Headers>,
}

/// Sends a request and reads its answer. When a kept connection turns out to be closed, a new one is tried.
pub(super) async fn exchange(subject: &Subject, request: &Request, kept: &mut Option<Kept>) -> Result<Answer, Failure> {
    if let Some(connection) = kept.take().and_then(Kept::sound) {
        match over(subject, connection, request, kept).await {
            Err(error) if is_stale(&error) => {}
            result => return result.map_err(|error| failure(subject, &error)),
        }
    }
    let connection = connect(subject, request.wanted).await?;
    over(subject, connection, request, kept).await.map_err(|error| failure(subject, &error))
}

fn is_stale(error: &StreamError) -> bool {
    matches!(error.kind, StreamErrorKind::Closed | StreamErrorKind::Io(_) | StreamErrorKind::Reset(_))
}

fn failure(subject: &Subject, error: &StreamError) -> Failure {
    tracing::debug!(cluster = %subject.cluster.name(), %error, "a health check failed");
    Failure::network()
}

async fn connect(subject: &Subject, wanted: Wanted) -> Result<Kept, Failure> {
    let made = subject.connect(wanted).await?;
    if !made.http2 {
        return Ok(Kept::Http1(Box::new(h1::ClientConn::new(made.io, subject.cluster.http1_options()))));
    }
    let handshake = h2::ClientConn::handshake(made.io, &subject.cluster.http2_options()).await;
    let (handle, driver) = handshake.map_err(|error| failure(subject, &error))?;
    let driver = tokio::task::spawn_local(async move {
        // How it ended shows in the stream.
        let _ = driver.await;
    });
    Ok(Kept::Http2(Http2 { handle, driver: driver.abort_handle() }))
}

/// The exchange itself; leaves the connection in `kept` if it may be used again.
async fn over(
    subject: &Subject,
    connection: Kept,
    request: &Request,
    kept: &mut Option<Kept>,
) -> Result<Answer, StreamError> {
    let reuse = subject.check.reuse_connection;
    match connection {
        Kept::Http1(conn) => {
            let mut stream = ClientStream::H1(conn);
            let answer = ask(&mut stream, request).await?;
            *kept = stream.into_reusable().filter(|_| reuse).map(Kept::Http1);
            Ok(answer)
        }
        Kept::Http2(connection) => {
            let stream = connection.handle.open_stream().ok_or(StreamError::CLOSED)?;
            let answer = ask(&mut ClientStream::H2(Box::new(stream)), request).await?;
            // A server that says goodbye has answered what it had begun.
            *kept = (reuse && !connection.handle.is_closing()).then_some(Kept::Http2(connection));
            Ok(answer)
        }
    }
}

async fn ask(stream: &mut ClientStream, request: &Request) -> Result<Answer, StreamError> {
    stream.send_head(&request.head, request.body.is_empty())?;
    if !request.body.is_empty() {
        poll_fn(|cx| stream.poll_ready(cx)).await?;
        stream.send_data(request.body.clone(), true)?;
    }
    let head = loop {
        let head = poll_fn(|cx| stream.poll_head(cx)).await?;
        if !head.is_informational() || head.status == 101 {
            break head;
        }
    };
    let mut answer = Answer { head, body: BytesMut::new(), trailers: None };
    while let Some(frame) = poll_fn(|cx| stream.poll_body(cx)).await {
        match frame? {
            Frame::Data(data) => {
                let room = request.keep.saturating_sub(answer.body.len());
                answer.body.extend_from_slice(&data[..data.len().min(room)]);
            }
            Frame::Trailers(trailers) => answer.trailers = Some(trailers),
        }
    }
    Ok(answer)
}

// === impl Kept ===

impl Kept {
    /// Itself, unless the other side has closed it or sent what nobody asked for.
    fn sound(mut self) -> Option<Self> {
        let sound = match &mut self {
            Self::Http1(conn) => conn.poll_idle(&mut Context::from_waker(Waker::noop())).is_pending(),
            Self::Http2(connection) => connection.handle.can_open(),
        };
        sound.then_some(self)
    }
}
