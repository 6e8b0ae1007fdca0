//! Starting in order, and stopping: everything that can fail is tried before anything is served.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cp_fleet::Fleet;
use cp_management::{ConfigCore, FleetCore, Management};
use cp_pipeline::Pipeline;
use cp_store::{Embedded, StoreError};
use cp_xds::{NodeInfo, Peer, Publisher, XdsServer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::settings::{Access, Settings};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot listen on {address} for {what}: {source}")]
    Listen { address: SocketAddr, what: &'static str, source: std::io::Error },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    /// A file that was read is wrong.
    #[error("{path}: {reason}")]
    Invalid { path: PathBuf, reason: String },
}

/// A control plane that serves.
pub struct Running {
    pub xds: SocketAddr,
    pub management: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<(), String>>,
}

/// How long calls that run may take after the stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How often nodes that are long gone are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

struct Secrets {
    management: Option<cp_management::Tls>,
    xds: Option<cp_xds::Tls>,
    access: cp_management::Access,
}

/// Opens and binds everything, then serves in the background.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    let secrets = secrets(&settings.access)?;
    let xds_listener = listen(settings.xds_address, "nodes").await?;
    let management_listener = listen(settings.management_address, "operators").await?;
    let (xds, management) = (local(&xds_listener, "nodes")?, local(&management_listener, "operators")?);
    // The store last: what fails before it leaves no file behind.
    let path = settings.store.clone();
    let store = tokio::task::spawn_blocking(move || Embedded::open(&path))
        .await
        .map_err(|e| StoreError::Failed(e.to_string()))??;

    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let publisher = Publisher::default();
    let fleet = Fleet::new(cp_fleet::Limits::default());
    let pipeline = Arc::new(Pipeline::new(Arc::new(store), settings.groups));

    let follow = cp_pipeline::follow(Arc::clone(&pipeline), publisher.clone(), stopped(stopping.clone()));
    tasks.spawn(async move {
        follow.await;
        Ok(())
    });
    let server = XdsServer::new(publisher.clone(), Arc::clone(&fleet), xds_settings(&pipeline, settings.load_interval));
    let serve = cp_xds::serve(server, xds_listener, secrets.xds, stopped(stopping.clone()));
    tasks.spawn(async move { serve.await.map_err(|e| e.to_string()) });
    let api = Management {
        config: ConfigCore::new(Arc::clone(&pipeline)),
        fleet: FleetCore::new(Arc::clone(&fleet), publisher, pipeline),
        access: secrets.access,
    };
    let serve = api.serve(management_listener, secrets.management, stopping.clone());
    tasks.spawn(async move { serve.await.map_err(|e| e.to_string()) });
    tasks.spawn(forget(fleet, stopping));
    tracing::info!(%xds, %management, store = %settings.store.display(), "weir-control serves");
    Ok(Running { xds, management, stop, tasks })
}

impl Running {
    /// Serves until `shutdown` resolves or a server fails, then stops cleanly.
    pub async fn until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), String> {
        let failed = tokio::select! {
            () = shutdown => None,
            ended = self.tasks.join_next() => Some(outcome(ended)),
        };
        self.stop.send_replace(true);
        let finish = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = outcome(Some(ended)) {
                    tracing::warn!(%error, "a server did not stop cleanly");
                }
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, finish).await.is_err() {
            tracing::warn!("some calls did not end in time and are cut");
        }
        failed.unwrap_or(Ok(()))
    }
}

fn outcome(ended: Option<Result<Result<(), String>, tokio::task::JoinError>>) -> Result<(), String> {
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(error.to_string()),
    }
}

async fn listen(address: SocketAddr, what: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, what, source })
}

fn local(listener: &TcpListener, what: &'static str) -> Result<SocketAddr, StartError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    listener.local_addr().map_err(|source| StartError::Listen { address: unknown, what, source })
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the handle was dropped, which stops us too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn forget(fleet: Arc<Fleet>, stop: watch::Receiver<bool>) -> Result<(), String> {
    let stop = stopped(stop);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(FORGET_EVERY) => fleet.forget_old(SystemTime::now()),
        }
    }
}

fn xds_settings(pipeline: &Arc<Pipeline>, load_interval: Duration) -> cp_xds::Settings {
    let pipeline = Arc::clone(pipeline);
    let mut settings = cp_xds::Settings::one_group(cp_pipeline::groups::DEFAULT);
    settings.selector = Arc::new(move |node| pipeline.groups().of(node).to_owned());
    settings.admit = Arc::new(admit);
    settings.load_interval = load_interval;
    settings
}

/// A certificate is good for the node that it names only: by the last part of a URI (`spiffe://domain/node/edge-1`) or by
/// a DNS name.
fn admit(peer: &Peer, node: &NodeInfo) -> Result<(), String> {
    let of_uris = peer.uris.iter().filter_map(|uri| uri.rsplit('/').next());
    let names: Vec<&str> = of_uris.chain(peer.dns_names.iter().map(String::as_str)).collect();
    if !peer.authenticated || names.contains(&node.id.as_str()) {
        return Ok(());
    }
    if names.is_empty() {
        return Err(format!("the certificate names no node, and this is node `{}`", node.id));
    }
    Err(format!("the certificate is for {}, not for node `{}`", names.join(", "), node.id))
}

fn secrets(access: &Access) -> Result<Secrets, StartError> {
    let Access::Guarded { tls_cert, tls_key, node_ca, token_file } = access else {
        return Ok(Secrets { management: None, xds: None, access: cp_management::Access::Open });
    };
    let (certificate, key) = (pem(tls_cert, "CERTIFICATE-----")?, pem(tls_key, "PRIVATE KEY-----")?);
    let ca = pem(node_ca, "CERTIFICATE-----")?;
    let access = cp_management::Access::from_file(&read(token_file)?)
        .map_err(|e| StartError::Invalid { path: token_file.clone(), reason: e.to_string() })?;
    let xds = cp_xds::Tls {
        certificate_pem: certificate.clone().into_bytes(),
        key_pem: key.clone().into_bytes(),
        client_ca_pem: Some(ca.into_bytes()),
    };
    Ok(Secrets { management: Some(cp_management::Tls { certificate, key }), xds: Some(xds), access })
}

fn read(path: &Path) -> Result<String, StartError> {
    std::fs::read_to_string(path).map_err(|source| StartError::Read { path: path.to_owned(), source })
}

fn pem(path: &Path, marker: &str) -> Result<String, StartError> {
    let text = read(path)?;
    if !text.contains(marker) {
        let reason = format!("holds no PEM block that ends in `{marker}`");
        return Err(StartError::Invalid { path: path.to_owned(), reason });
    }
    Ok(text)
}
