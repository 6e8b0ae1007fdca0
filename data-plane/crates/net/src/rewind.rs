//! A stream whose first bytes were looked at and are read again.
//!
//! Costs nothing once the looked-at bytes are read: the buffer is freed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A stream with bytes that were read ahead.
#[derive(Debug)]
pub struct Rewind<S> {
    ahead: BytesMut,
    stream: S,
}

impl<S> Rewind<S> {
    pub fn new(stream: S) -> Self {
        Self { ahead: BytesMut::new(), stream }
    }

    /// The bytes read ahead so far.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Takes `n` of the bytes read ahead away: nobody reads them again.
    pub fn consume(&mut self, n: usize) {
        self.ahead.advance(n.min(self.ahead.len()));
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The same with something around the stream.
    pub fn map<T>(self, wrap: impl FnOnce(S) -> T) -> Rewind<T> {
        Rewind { ahead: self.ahead, stream: wrap(self.stream) }
    }

    /// The stream itself, when no byte is left ahead.
    pub fn into_stream(self) -> Result<S, Self> {
        if self.ahead.is_empty() { Ok(self.stream) } else { Err(self) }
    }
}

impl<S: AsyncRead + Unpin> Rewind<S> {
    /// Reads on, so that at least `wanted` bytes are ahead; never reads past `limit`. `false` when the stream ended.
    pub async fn read_ahead(&mut self, wanted: usize, limit: usize) -> io::Result<bool> {
        while self.ahead.len() < wanted.min(limit) {
            let room = limit.min(wanted.max(self.ahead.len() + 512)) - self.ahead.len();
            self.ahead.reserve(room);
            let mut chunk = (&mut self.stream).take(room as u64);
            if chunk.read_buf(&mut self.ahead).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..n]);
        self.ahead.advance(n);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
