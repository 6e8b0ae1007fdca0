//! A connection that ends when nothing comes or goes for too long.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Whoever connects has something to say.
const OPENING: Duration = Duration::from_secs(10);
/// The shortest request; HTTP/2 says more than this before it waits for anything.
const OPENING_BYTES: usize = 16;
/// Clients of HTTP/2 answer our pings more often than this, and on event streams we write.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    stream: S,
    read: usize,
    /// When something came or went last.
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> Connection<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, read: 0, last: Instant::now(), timer: Box::pin(tokio::time::sleep(OPENING)) }
    }

    fn moved(&mut self, bytes: usize) {
        if bytes > 0 && self.read >= OPENING_BYTES {
            self.last = Instant::now();
        }
    }

    /// For whoever waits: an error when it has been too long. The timer is set anew only when it fires.
    fn poll_idle<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = self.last + if self.read < OPENING_BYTES { OPENING } else { IDLE };
            if due <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.as_mut().reset(due);
        }
        Poll::Pending
    }

    fn written(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Pending => self.poll_idle(cx),
            Poll::Ready(outcome) => {
                self.moved(*outcome.as_ref().unwrap_or(&0));
                Poll::Ready(outcome)
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if polled.is_pending() {
            return this.poll_idle(cx);
        }
        let bytes = buf.filled().len() - before;
        this.read = this.read.saturating_add(bytes);
        this.moved(bytes);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// The client sends `bytes` every `pause`; how long until the server's end is closed.
    async fn check(bytes: &'static [u8], pause: Duration, expected: Option<Duration>) {
        let (mut client, server) = duplex(1 << 10);
        let mut connection = Connection::new(server);
        let began = Instant::now();
        tokio::spawn(async move {
            for _ in 0..100 {
                if client.write_all(bytes).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        });
        let outcome = connection.read_to_end(&mut Vec::new()).await;
        match expected {
            Some(expected) => {
                assert_eq!(outcome.expect_err("too long").kind(), io::ErrorKind::TimedOut);
                assert_eq!(began.elapsed().as_secs(), expected.as_secs(), "{bytes:?} every {pause:?}");
            }
            None => assert!(outcome.is_ok(), "{bytes:?} every {pause:?}: {outcome:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_kept() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        check(b"", second, Some(OPENING)).await;
        check(b"x", second / 2, None).await;
        check(b"x", second, Some(OPENING)).await;
        check(b"GET / HTTP/1.0\r\n", 2 * minute, Some(IDLE)).await;
        check(b"GET / HTTP/1.0\r\n", minute - second, None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_not_kept() {
        let (mut client, server) = duplex(1 << 10);
        let mut connection = Connection::new(server);
        client.write_all(b"GET / HTTP/1.0\r\n").await.expect("room");
        connection.read_exact(&mut [0; 16]).await.expect("there");
        let error = connection.write_all(&[0; 4096]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
