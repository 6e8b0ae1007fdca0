//! Serving the API on one socket: gRPC and REST side by side, with or without TLS.

use std::sync::Arc;

use cp_net::{Incoming, TlsIncoming};
use proto::weir::management::v1::config_service_server::ConfigServiceServer;
use proto::weir::management::v1::fleet_service_server::FleetServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::auth::Access;
use crate::calls;
use crate::config::ConfigCore;
use crate::fleet::FleetCore;
use crate::grpc;
use crate::rest::{self, Rest};

/// PEM texts.
#[derive(Clone)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot serve the management api: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("cannot serve the management api: {0}")]
    Tls(#[from] shared_tls::TlsError),
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Sources, attachments and room around them.
const MAX_MESSAGE: usize = 40 << 20;

pub struct Management {
    pub config: ConfigCore,
    pub fleet: FleetCore,
    pub access: Access,
}

impl Management {
    /// Serves until `stop` says so; watches end then, and other calls are finished first.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Option<Tls>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), ServeError> {
        let routes = self.routes(stop.clone()).await?;
        let server = cp_net::server().accept_http1(true).add_routes(routes);
        let (incoming, stopped) = (Incoming::new(listener), grpc::stopped(stop));
        match tls {
            None => server.serve_with_incoming_shutdown(incoming, stopped).await?,
            Some(Tls { certificate, key }) => {
                let incoming = TlsIncoming::new(incoming, &certificate, &key)?;
                server.serve_with_incoming_shutdown(incoming, stopped).await?;
            }
        }
        Ok(())
    }

    async fn routes(self, stop: watch::Receiver<bool>) -> Result<Routes, ServeError> {
        let guard = axum::middleware::from_fn_with_state(Arc::new(self.access), calls::guard);
        let config = grpc::config::Config { core: self.config.clone(), stop: stop.clone() };
        let fleet = grpc::fleet::Fleet { core: self.fleet.clone(), stop: stop.clone() };
        let config = ConfigServiceServer::new(config).max_decoding_message_size(MAX_MESSAGE);
        let fleet = FleetServiceServer::new(fleet);
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<ConfigServiceServer<grpc::config::Config>>().await;
        reporter.set_serving::<FleetServiceServer<grpc::fleet::Fleet>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::WEIR_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let rpc = Routes::new(config).add_service(fleet).add_service(health).add_service(reflection);
        let rest = rest::router(Rest { config: self.config, fleet: self.fleet, stop });
        // A gRPC call to an unknown service gets tonic's answer; all else that is unknown gets a problem.
        let both = rpc.prepare().into_axum_router().merge(rest).route_layer(guard).fallback(rest::no_such_path);
        Ok(Routes::from(both))
    }
}
