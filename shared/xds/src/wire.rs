//! Requests as a server reads them and responses as it writes them.
//!
//! The node of a request stays opaque, since stock Envoy repeats 60 KB of it; the resources of a response are bytes that
//! were encoded before and are only copied.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use proto::google::rpc::Status;

use crate::Protocol;

/// `envoy.service.discovery.v3.DiscoveryRequest` with the node not decoded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SotwRequest {
    #[prost(string, tag = "1")]
    pub version_info: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub node: Option<Bytes>,
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Status>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest` with the node not decoded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub node: Option<Bytes>,
    #[prost(string, tag = "2")]
    pub type_url: String,
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: std::collections::BTreeMap<String, String>,
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// A request of either variant.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    Sotw(SotwRequest),
    Delta(DeltaRequest),
}

impl Request {
    pub fn node(&self) -> Option<&Bytes> {
        match self {
            Self::Sotw(request) => request.node.as_ref(),
            Self::Delta(request) => request.node.as_ref(),
        }
    }

    pub fn type_url(&self) -> &str {
        match self {
            Self::Sotw(request) => &request.type_url,
            Self::Delta(request) => &request.type_url,
        }
    }
}

/// A response ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub protocol: Protocol,
    pub type_url: Arc<str>,
    pub version: String,
    pub nonce: String,
    /// Encoded `Any`s (state of the world) or encoded `Resource`s (delta).
    pub resources: Vec<Bytes>,
    /// Delta only.
    pub removed: Vec<Arc<str>>,
    /// The encoded `ControlPlane`.
    pub control_plane: Bytes,
}

impl Response {
    /// The encoded length.
    pub fn encoded_len(&self) -> usize {
        let mut counter = Counter(0);
        self.write(&mut counter);
        counter.0
    }

    /// Writes the `DiscoveryResponse` or `DeltaDiscoveryResponse`.
    pub fn encode(&self, out: &mut impl BufMut) {
        self.write(&mut Buffer(out));
    }

    fn write(&self, sink: &mut impl Sink) {
        let delta = self.protocol == Protocol::Delta;
        let (nonce, control_plane) = if delta { (5, 7) } else { (5, 6) };
        field(sink, 1, self.version.as_bytes());
        for resource in &self.resources {
            always(sink, 2, resource);
        }
        field(sink, 4, self.type_url.as_bytes());
        field(sink, nonce, self.nonce.as_bytes());
        if delta {
            for name in &self.removed {
                always(sink, 6, name.as_bytes());
            }
        }
        field(sink, control_plane, &self.control_plane);
    }
}

trait Sink {
    fn key(&mut self, tag: u32, length: usize);
    fn bytes(&mut self, bytes: &[u8]);
}

struct Counter(usize);

impl Sink for Counter {
    fn key(&mut self, tag: u32, length: usize) {
        self.0 += key_len(tag) + encoded_len_varint(length as u64);
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

struct Buffer<'a, B>(&'a mut B);

impl<B: BufMut> Sink for Buffer<'_, B> {
    fn key(&mut self, tag: u32, length: usize) {
        encode_key(tag, WireType::LengthDelimited, self.0);
        encode_varint(length as u64, self.0);
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }
}

fn field(sink: &mut impl Sink, tag: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        always(sink, tag, bytes);
    }
}

fn always(sink: &mut impl Sink, tag: u32, bytes: &[u8]) {
    sink.key(tag, bytes.len());
    sink.bytes(bytes);
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::Any;
    use proto::envoy::config::core::v3::{ControlPlane, Node};
    use proto::envoy::service::discovery::v3 as discovery;

    use super::*;

    fn response(protocol: Protocol, resource: Bytes) -> Response {
        Response {
            protocol,
            type_url: "t".into(),
            version: "7".to_owned(),
            nonce: "n1".to_owned(),
            resources: vec![resource, Bytes::new()],
            removed: vec!["gone".into()],
            control_plane: ControlPlane { identifier: "cp".to_owned() }.encode_to_vec().into(),
        }
    }

    fn encoded(response: &Response) -> Bytes {
        let mut out = Vec::new();
        response.encode(&mut out);
        assert_eq!(out.len(), response.encoded_len());
        out.into()
    }

    #[test]
    fn a_delta_response_is_what_prost_would_write() {
        let resource = discovery::Resource { name: "a".to_owned(), ..Default::default() };
        let bytes = encoded(&response(Protocol::Delta, resource.encode_to_vec().into()));
        let read = discovery::DeltaDiscoveryResponse::decode(bytes.clone()).expect("a response");
        assert_eq!(read.resources, [resource, Default::default()]);
        assert_eq!(read.removed_resources, ["gone"]);
        assert_eq!((&*read.type_url, &*read.nonce, &*read.system_version_info), ("t", "n1", "7"));
        assert_eq!(read.control_plane.as_ref().expect("set").identifier, "cp");
        assert_eq!(read.encode_to_vec(), bytes);
    }

    #[test]
    fn a_state_of_the_world_response_is_what_prost_would_write() {
        let any = Any { type_url: "t".to_owned(), value: Bytes::from_static(b"v") };
        let bytes = encoded(&response(Protocol::Sotw, any.encode_to_vec().into()));
        let read = discovery::DiscoveryResponse::decode(bytes.clone()).expect("a response");
        assert_eq!(read.resources, [any, Any::default()]);
        assert_eq!((&*read.type_url, &*read.nonce, &*read.version_info), ("t", "n1", "7"));
        assert_eq!(read.encode_to_vec(), bytes);
    }

    #[test]
    fn a_request_is_read_with_its_node_left_alone() {
        let node = Node { id: "n".to_owned(), ..Default::default() };
        let sent = discovery::DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: "t".to_owned(),
            resource_names_subscribe: vec!["a".to_owned()],
            initial_resource_versions: [("b".to_owned(), "1".to_owned())].into(),
            response_nonce: "5".to_owned(),
            ..Default::default()
        };
        let read = DeltaRequest::decode(&sent.encode_to_vec()[..]).expect("a request");
        assert_eq!(Node::decode(read.node.clone().expect("a node")).expect("a node"), node);
        assert_eq!(read.encode_to_vec(), sent.encode_to_vec());
    }
}
