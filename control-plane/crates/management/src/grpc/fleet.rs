//! weir.management.v1.FleetService over gRPC.

use std::collections::BTreeMap;

use proto::weir::management::v1 as pb;
use proto::weir::management::v1::fleet_service_server::FleetService;
use tokio::sync::watch;
use tonic::{Request, Response, Status, async_trait};

use super::{WatchStream, caller, stopped, watch_channel};
use crate::apart::apart;
use crate::fleet::{FleetCore, without_age};

pub(crate) struct Fleet {
    pub(crate) core: FleetCore,
    pub(crate) stop: watch::Receiver<bool>,
}

#[async_trait]
impl FleetService for Fleet {
    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        let nodes = self.core.list(&request.get_ref().group).map_err(|f| f.status())?;
        Ok(Response::new(pb::ListNodesResponse { nodes }))
    }

    async fn get_node(&self, request: Request<pb::GetNodeRequest>) -> Result<Response<pb::GetNodeResponse>, Status> {
        let node = self.core.get(&request.get_ref().id).map_err(|f| f.status())?;
        Ok(Response::new(pb::GetNodeResponse { node: Some(node) }))
    }

    type WatchNodesStream = WatchStream<pb::WatchNodesResponse>;

    async fn watch_nodes(
        &self,
        request: Request<pb::WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        let group = request.into_inner().group;
        let (sender, stream) = watch_channel();
        let (core, stop) = (self.core.clone(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stopped(stop) => (),
                () = follow(&core, &group, &sender) => (),
                () = sender.closed() => (),
            }
        });
        Ok(Response::new(stream))
    }

    async fn get_node_config(
        &self,
        request: Request<pb::GetNodeConfigRequest>,
    ) -> Result<Response<pb::GetNodeConfigResponse>, Status> {
        self.core.config(request.get_ref()).map(Response::new).map_err(|f| f.status())
    }

    async fn list_endpoints(
        &self,
        request: Request<pb::ListEndpointsRequest>,
    ) -> Result<Response<pb::ListEndpointsResponse>, Status> {
        self.core.endpoints(request.get_ref()).await.map(Response::new).map_err(|f| f.status())
    }

    async fn drain_endpoint(
        &self,
        request: Request<pb::DrainEndpointRequest>,
    ) -> Result<Response<pb::DrainEndpointResponse>, Status> {
        let caller = caller(&request)?;
        self.core.drain(&caller, request.into_inner()).await.map(Response::new).map_err(|f| f.status())
    }

    async fn undrain_endpoint(
        &self,
        request: Request<pb::UndrainEndpointRequest>,
    ) -> Result<Response<pb::UndrainEndpointResponse>, Status> {
        let caller = caller(&request)?;
        self.core.undrain(&caller, request.into_inner()).await.map(Response::new).map_err(|f| f.status())
    }

    async fn route_test(
        &self,
        request: Request<pb::RouteTestRequest>,
    ) -> Result<Response<pb::RouteTestResponse>, Status> {
        apart(self.core.clone().route_test(request.into_inner())).await.map(Response::new).map_err(|f| f.status())
    }
}

pub(crate) async fn follow(
    core: &FleetCore,
    group: &str,
    sender: &tokio::sync::mpsc::Sender<Result<pb::WatchNodesResponse, Status>>,
) {
    let mut changes = core.fleet.watch();
    let mut known: BTreeMap<String, pb::Node> = BTreeMap::new();
    loop {
        changes.borrow_and_update();
        let nodes = match core.list(group) {
            Ok(nodes) => nodes,
            Err(failure) => {
                let _ = sender.send(Err(failure.status())).await;
                return;
            }
        };
        for node in nodes {
            let bare = without_age(&node);
            if known.get(&node.id) == Some(&bare) {
                continue;
            }
            known.insert(node.id.clone(), bare);
            if sender.send(Ok(pb::WatchNodesResponse { node: Some(node) })).await.is_err() {
                return;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
