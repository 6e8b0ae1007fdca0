//! Connections as they come, with or without TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use shared_tls::{Certificate, ServerSettings, TlsError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;

use crate::{Connection, HANDSHAKE};

/// How long nothing is accepted when it failed: without a free descriptor it would fail again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections of a listener.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    pause: Option<Pin<Box<Sleep>>>,
    /// Said once, and not every time.
    failing: bool,
}

impl Incoming {
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, pause: None, failing: false }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    self.failing = false;
                    // A slow connection is one all the same.
                    let _ = stream.set_nodelay(true);
                    return Poll::Ready(Connection::new(stream));
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%error, "cannot accept connections");
                    }
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_accept(cx).map(|connection| Some(Ok(connection)))
    }
}

/// The connections of a listener, after their handshakes.
pub struct TlsIncoming {
    incoming: Incoming,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<TlsStream<Connection>>>,
}

impl TlsIncoming {
    /// For clients of HTTP/2 and of HTTP/1.1; certificate and key are PEM texts.
    ///
    /// # Errors
    /// They are broken, or do not belong together.
    pub fn new(incoming: Incoming, certificate: &str, key: &str) -> Result<Self, TlsError> {
        let certificate = Certificate::from_pem(certificate.as_bytes(), key.as_bytes(), None)
            .map_err(|source| TlsError::Certificate { index: 0, source })?;
        let settings = ServerSettings {
            certificates: vec![certificate],
            alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
            ..Default::default()
        };
        let acceptor = TlsAcceptor::from(shared_tls::server_config(settings)?);
        Ok(Self { incoming, acceptor, handshakes: JoinSet::new() })
    }
}

impl Stream for TlsIncoming {
    type Item = io::Result<TlsStream<Connection>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while let Poll::Ready(connection) = this.incoming.poll_accept(cx) {
            let handshake = this.acceptor.accept(connection);
            this.handshakes.spawn(async move {
                match tokio::time::timeout(HANDSHAKE, handshake).await {
                    Ok(Ok(stream)) => Some(stream),
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "a handshake failed");
                        None
                    }
                    Err(_) => None,
                }
            });
        }
        loop {
            match this.handshakes.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Some(stream)))) => return Poll::Ready(Some(Ok(stream))),
                Poll::Ready(Some(_)) => {}
                // Without handshakes the next connection wakes us.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}
