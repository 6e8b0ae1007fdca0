//! Both ends of a handshake, in memory.

use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, crypto::aws_lc_rs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::client_hello;
use crate::rewind::Rewind;
use crate::sniff;

fn describe(chain: &[CertificateDer<'_>]) -> PeerCertificate {
    PeerCertificate { serial: chain.len().to_string(), ..PeerCertificate::default() }
}

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// Presents no certificate.
    anonymous: Arc<ClientConfig>,
}

fn configs() -> Configs {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let key = || PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain = || vec![made.cert.der().clone()];
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let verifier = verifier.allow_unauthenticated().build().unwrap();
    let mut server = builder.with_client_cert_verifier(verifier).with_single_cert(chain(), key()).unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let builder =
        || ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let mut client =
        builder().with_root_certificates(Arc::clone(&roots)).with_client_auth_cert(chain(), key()).unwrap();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let anonymous = builder().with_root_certificates(roots).with_no_client_auth();
    Configs { server: Arc::new(server), client: Arc::new(client), anonymous: Arc::new(anonymous) }
}

#[tokio::test]
async fn both_sides_know_what_was_agreed_on() {
    let configs = configs();
    let (near, far) = tokio::io::duplex(64 << 10);
    let name = ServerName::try_from("A.example").unwrap();
    let (served, called) =
        tokio::join!(accept(near, configs.server, describe), connect(far, configs.client, name, describe));
    let (mut served, server_info) = served.unwrap();
    let (mut called, client_info) = called.unwrap();
    assert_eq!(server_info.sni.as_deref(), Some("a.example"));
    assert_eq!((server_info.version, server_info.alpn.as_deref()), ("TLSv1.3", Some("http/1.1")));
    assert!(server_info.cipher.starts_with("TLS_"), "{}", server_info.cipher);
    assert_eq!(server_info.peer.unwrap().serial, "1");
    assert_eq!(client_info.cipher, server_info.cipher);
    called.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    served.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn a_server_name_is_seen_before_the_handshake_and_the_handshake_still_works() {
    let configs = configs();
    let (near, far) = tokio::io::duplex(64 << 10);
    let name = ServerName::try_from("a.example").unwrap();
    let server = async {
        let mut near = Rewind::new(near);
        let hello = sniff::tls(&mut near, client_hello::LIMIT).await.unwrap();
        (hello, accept(near, configs.server, describe).await.unwrap().1)
    };
    let ((hello, info), called) = tokio::join!(server, connect(far, configs.anonymous, name, describe));
    called.unwrap();
    let expected = client_hello::ClientHello { server_name: Some("a.example".into()), alpn: Vec::new() };
    assert_eq!((hello, info.peer.is_none()), (sniff::Tls::Hello(expected), true));
}

#[tokio::test]
async fn a_wrong_name_and_plain_text_fail_with_a_reason() {
    let configs = configs();
    let (near, far) = tokio::io::duplex(64 << 10);
    let name = ServerName::try_from("b.example").unwrap();
    let (_, called) =
        tokio::join!(accept(near, Arc::clone(&configs.server), describe), connect(far, configs.client, name, describe));
    assert!(matches!(called.unwrap_err(), TlsError::Handshake(rustls::Error::InvalidCertificate(_))));

    let (near, mut far) = tokio::io::duplex(1024);
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let refused = accept(near, configs.server, describe).await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, TlsError::Handshake(rustls::Error::InvalidMessage(_))), "{refused}");
}
