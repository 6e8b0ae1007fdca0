//! Serving on a socket, with or without certificates.

use cp_net::Incoming;
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::service::XdsServer;

/// The certificate we show, and the authority whose clients we take.
#[derive(Clone)]
pub struct Tls {
    pub certificate_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
    /// With it, a client must show a certificate of this authority.
    pub client_ca_pem: Option<Vec<u8>>,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot serve xds: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `stop` resolves.
///
/// # Errors
/// The certificates are not usable, or the socket fails.
pub async fn serve(
    server: XdsServer,
    listener: TcpListener,
    tls: Option<Tls>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let mut builder = cp_net::server();
    if let Some(tls) = tls {
        let mut config = ServerTlsConfig::new()
            .timeout(cp_net::HANDSHAKE)
            .identity(Identity::from_pem(tls.certificate_pem, tls.key_pem));
        if let Some(ca) = tls.client_ca_pem {
            config = config.client_ca_root(Certificate::from_pem(ca));
        }
        builder = builder.tls_config(config)?;
    }
    let stopping = server.clone();
    let stop = async move {
        stop.await;
        // Open streams would hold up the end for ever.
        stopping.stop();
    };
    builder.add_routes(server.routes()).serve_with_incoming_shutdown(Incoming::new(listener), stop).await?;
    Ok(())
}
