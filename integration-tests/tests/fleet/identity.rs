//! Nodes show who they are by certificate: the right one is served, another one's name is refused.

use std::path::{Path, PathBuf};

use control_plane::settings::Access;
use data_plane::{Options, Proxy};
use proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::harness::*;

/// An authority with a folder for what it signs.
struct Authority<'a> {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: &'a Path,
}

/// A certificate and its key.
struct Pair(PathBuf, PathBuf);

impl<'a> Authority<'a> {
    fn new(folder: &'a Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        Self { issuer, folder }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    fn root(&self) -> PathBuf {
        self.write("ca.pem", &self.issuer.pem())
    }

    fn sign(&self, file: &str, names: Vec<SanType>) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).expect("valid");
        params.subject_alt_names = names;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Pair(
            self.write(&format!("{file}.pem"), &certificate.pem()),
            self.write(&format!("{file}.key"), &key.serialize_pem()),
        )
    }

    fn node(&self, id: &str) -> Pair {
        let uri = format!("spiffe://fleet.test/node/{id}");
        self.sign(id, vec![SanType::URI(uri.try_into().expect("valid"))])
    }

    fn proxy(&self, id: &str, xds: std::net::SocketAddr, Pair(certificate, key): &Pair) -> Proxy {
        let tls = format!(
            "    transport_socket:
      name: tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: control
        common_tls_context:
          tls_certificates: [{{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }} }}]
          validation_context: {{ trusted_ca: {{ filename: {} }} }}
",
            certificate.display(),
            key.display(),
            self.root().display()
        );
        start(&bootstrap(id, xds, Api::Delta, &tls), Options::default())
    }

    /// What the control plane says to a node that calls itself `id`.
    async fn verdict(&self, id: &str, xds: std::net::SocketAddr, Pair(certificate, key): &Pair) -> tonic::Status {
        let read = |path: &Path| std::fs::read(path).expect("written before");
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.issuer.pem()))
            .identity(Identity::from_pem(read(certificate), read(key)))
            .domain_name("control");
        let endpoint =
            Channel::from_shared(format!("https://{xds}")).expect("an address").tls_config(tls).expect("usable");
        let mut client = AggregatedDiscoveryServiceClient::new(endpoint.connect().await.expect("connects"));
        let node = proto::envoy::config::core::v3::Node { id: id.to_owned(), ..Default::default() };
        let first = DeltaDiscoveryRequest { node: Some(node), ..Default::default() };
        let requests = tokio_stream::iter([first]);
        match client.delta_aggregated_resources(requests).await {
            Ok(answer) => answer.into_inner().message().await.err().unwrap_or_else(|| tonic::Status::ok("")),
            Err(status) => status,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_served_under_the_name_in_its_certificate_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let origin = origin(0).await;
    let plane = Plane::start(folder.path(), LOOPBACK).await;
    let text = "listeners:\n  web: \"127.0.0.1:0\"\nroutes:\n  - to: app\nclusters:\n  app: [\"ORIGIN\"]\n";
    plane.apply(&text.replace("ORIGIN", &origin.to_string())).await;
    plane.stop().await;

    let authority = Authority::new(folder.path());
    let server = authority.sign("server", vec![SanType::DnsName("control".try_into().expect("valid"))]);
    let token = format!("ann viewer sha256:{}\n", "0".repeat(64));
    let access = Access::Guarded {
        tls_cert: server.0,
        tls_key: server.1,
        node_ca: authority.root(),
        token_file: authority.write("tokens", &token),
    };
    let plane = Plane::start_with(folder.path(), LOOPBACK, access).await;
    let one = authority.node("one");
    let status = authority.verdict("two", plane.xds, &one).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("not for node `two`"), "{status:?}");
    let nobody = authority.sign("nobody", Vec::new());
    let status = authority.verdict("two", plane.xds, &nobody).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("names no node"), "{status:?}");

    let wrong = authority.proxy("two", plane.xds, &one);
    let right = authority.proxy("one", plane.xds, &one);
    let answer = get(address(&right, "web").await, "/").await.expect("an answer");
    assert_eq!(answer.body, "0 -");
    assert!(wrong.listener("web").is_none(), "it is served under another one's name");
    drop((wrong, right));
    plane.stop().await;
}
