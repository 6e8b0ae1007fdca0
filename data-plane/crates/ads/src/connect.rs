//! Opening a stream: dial an endpoint, call the method.

use proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use shared_xds::client::{Client, Received, Request};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use crate::source::StreamSource;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no endpoint is configured")]
    NoEndpoint,
    #[error("there is no such discovery service")]
    NoMethod,
    #[error("{0}: {1}")]
    Transport(String, String),
    #[error("metadata {0:?} cannot be sent")]
    Metadata(String),
    #[error("stream refused: {0}")]
    Status(String),
}

/// The responses of an open stream.
pub(crate) enum Inbound {
    Sotw(Streaming<DiscoveryResponse>),
    Delta(Streaming<DeltaDiscoveryResponse>),
}

/// One response of either variant.
pub(crate) enum Response {
    Sotw(DiscoveryResponse),
    Delta(DeltaDiscoveryResponse),
}

impl Inbound {
    /// The next response; `None` at the orderly end of the stream. May be cancelled.
    pub(crate) async fn next(&mut self) -> Result<Option<Response>, Status> {
        match self {
            Self::Sotw(stream) => Ok(stream.message().await?.map(Response::Sotw)),
            Self::Delta(stream) => Ok(stream.message().await?.map(Response::Delta)),
        }
    }
}

impl Response {
    pub(crate) fn give(self, client: &mut Client) -> Option<Received> {
        let now = std::time::Instant::now();
        match self {
            Self::Sotw(response) => client.on_sotw(response, now),
            Self::Delta(response) => client.on_delta(response, now),
        }
    }
}

/// Dials the endpoint whose turn it is.
pub(crate) async fn dial(source: &StreamSource, turn: usize) -> Result<Channel, ConnectError> {
    let uri = source.endpoints.get(turn % source.endpoints.len().max(1)).ok_or(ConnectError::NoEndpoint)?;
    let failed = |error: tonic::transport::Error| ConnectError::Transport(uri.clone(), chain(&error));
    let mut endpoint = Endpoint::from_shared(uri.clone())
        .map_err(failed)?
        .connect_timeout(source.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(source.keepalive_interval)
        .keep_alive_timeout(source.keepalive_timeout)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true);
    if let Some(tls) = &source.tls {
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
        if let Some((certificate, key)) = &tls.identity_pem {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &tls.server_name {
            config = config.domain_name(name);
        }
        endpoint = endpoint.tls_config(config).map_err(failed)?;
    }
    if let Some(authority) = &source.authority {
        let origin = format!("http://{authority}").parse().map_err(|_| ConnectError::Metadata(authority.clone()))?;
        endpoint = endpoint.origin(origin);
    }
    endpoint.connect().await.map_err(failed)
}

/// Calls the method of `source`. Requests may already be waiting in `requests`: some servers answer nothing, not even
/// headers, before the first one.
pub(crate) async fn call(
    source: &StreamSource,
    channel: Channel,
    requests: UnboundedReceiver<Request>,
) -> Result<Inbound, ConnectError> {
    let method = source.method().ok_or(ConnectError::NoMethod)?;
    let method = method.parse().map_err(|_| ConnectError::NoMethod)?;
    let mut grpc =
        Grpc::new(channel).max_decoding_message_size(source.max_message).max_encoding_message_size(usize::MAX);
    let refused = |status: Status| ConnectError::Status(describe(&status));
    grpc.ready().await.map_err(|error| ConnectError::Status(chain(&error)))?;
    let requests = UnboundedReceiverStream::new(requests);
    match source.protocol {
        shared_xds::Protocol::Delta => {
            let requests = requests.filter_map(|request| match request {
                Request::Delta(request) => Some(request),
                Request::Sotw(_) => None,
            });
            let request = with_metadata(source, tonic::Request::new(requests))?;
            let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
            Ok(Inbound::Delta(grpc.streaming(request, method, codec).await.map_err(refused)?.into_inner()))
        }
        shared_xds::Protocol::Sotw => {
            let requests = requests.filter_map(|request| match request {
                Request::Sotw(request) => Some(request),
                Request::Delta(_) => None,
            });
            let request = with_metadata(source, tonic::Request::new(requests))?;
            let codec = ProstCodec::<DiscoveryRequest, DiscoveryResponse>::default();
            Ok(Inbound::Sotw(grpc.streaming(request, method, codec).await.map_err(refused)?.into_inner()))
        }
    }
}

pub(crate) fn with_metadata<T>(
    source: &StreamSource,
    mut request: tonic::Request<T>,
) -> Result<tonic::Request<T>, ConnectError> {
    for (key, value) in &source.metadata {
        let bad = || ConnectError::Metadata(key.clone());
        let name: MetadataKey<Ascii> = key.parse().map_err(|_| bad())?;
        let value: MetadataValue<Ascii> = value.parse().map_err(|_| bad())?;
        request.metadata_mut().append(name, value);
    }
    Ok(request)
}

pub(crate) fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// An error with its causes, for the transport's own text says only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
