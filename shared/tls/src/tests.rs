//! Handshakes in memory between what this crate makes, with certificates made for the test.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// An authority and what it has signed.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Leaf {
    pem: String,
    key: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, |_| {})
    }

    fn leaf_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "leaf, of the tree");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Leaf { pem: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    fn roots(&self) -> Roots {
        Roots::Pem(self.pem.clone().into_bytes())
    }
}

impl Leaf {
    fn certificate(&self) -> Certificate {
        Certificate::from_pem(self.pem.as_bytes(), self.key.as_bytes(), None).unwrap()
    }
}

fn server(certificates: &[&Leaf]) -> ServerSettings {
    let certificates = certificates.iter().map(|leaf| leaf.certificate()).collect();
    ServerSettings { certificates, stateful_resumption: true, ..ServerSettings::default() }
}

fn client(verification: Verification) -> ClientSettings {
    ClientSettings { verification, send_sni: true, max_sessions: 8, ..ClientSettings::default() }
}

fn trusting(ca: &Ca) -> Verification {
    Verification { roots: ca.roots(), ..Verification::default() }
}

fn exact(kind: SanKind, name: &str) -> SanCheck {
    let wanted = name.to_owned();
    SanCheck { kind: Some(kind), matches: Arc::new(move |n| n == wanted), exact: Some(name.to_owned()) }
}

/// What a handshake agreed on, as both sides saw it.
#[derive(Debug, Default, PartialEq)]
struct Agreed {
    alpn: Option<String>,
    version: Option<rustls::ProtocolVersion>,
    server: CertificateInfo,
    client: Option<CertificateInfo>,
    resumed: bool,
}

/// Shakes hands, and exchanges a byte so that a client's certificate is judged.
async fn handshake(
    server: &Arc<rustls::ServerConfig>,
    client: &Arc<rustls::ClientConfig>,
    name: &str,
) -> Result<Agreed, String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (near, far) = tokio::io::duplex(64 * 1024);
    let acceptor = TlsAcceptor::from(Arc::clone(server));
    let accepting = async move {
        let mut stream = acceptor.accept(far).await.map_err(|e| format!("server: {e}"))?;
        stream.write_all(b"x").await.map_err(|e| e.to_string())?;
        let client = stream.get_ref().1.peer_certificates().map(describe);
        Ok::<_, String>(client)
    };
    let connector = TlsConnector::from(Arc::clone(client));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = async move {
        let mut stream = connector.connect(name, near).await.map_err(|e| format!("client: {e}"))?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map_err(|e| format!("client: {e}"))?;
        let session = stream.get_ref().1;
        Ok::<_, String>(Agreed {
            alpn: session.alpn_protocol().map(|p| String::from_utf8(p.to_vec()).unwrap()),
            version: session.protocol_version(),
            server: session.peer_certificates().map(describe).unwrap_or_default(),
            client: None,
            resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        })
    };
    let (accepted, connected) = tokio::join!(accepting, connecting);
    match (accepted, connected) {
        (Ok(client), Ok(agreed)) => Ok(Agreed { client, ..agreed }),
        // The side that refuses knows best why.
        (Err(server), Err(client)) if server.contains("received fatal alert") => Err(client),
        (Err(server), _) => Err(server),
        (_, Err(client)) => Err(client),
    }
}

/// One handshake with fresh configurations.
async fn once(server: ServerSettings, client: ClientSettings, name: &str) -> Result<Agreed, String> {
    handshake(&server_config(server).unwrap(), &client_config(client).unwrap(), name).await
}

#[tokio::test]
async fn the_certificate_is_chosen_by_server_name() {
    let ca = Ca::new("ca");
    let leaves = [ca.leaf(&["first.test"]), ca.leaf(&["a.test"]), ca.leaf(&["*.b.test"])];
    let config = server_config(server(&leaves.each_ref())).unwrap();
    let client = client_config(client(trusting(&ca))).unwrap();
    for (name, wanted) in [
        ("a.test", "a.test"),
        ("A.TEST", "a.test"),
        ("x.b.test", "*.b.test"),
        ("x.y.b.test", "first.test"),
        ("unknown.test", "first.test"),
    ] {
        let agreed = handshake(&config, &client, name).await.unwrap();
        assert_eq!(agreed.server.dns_sans, [wanted], "{name}");
    }
}

#[tokio::test]
async fn alpn_and_versions_are_agreed_on() {
    let ca = Ca::new("ca");
    let leaf = ca.leaf(&["a.test"]);
    let params = Params { maximum: Some(Version::V1_2), ..Params::default() };
    let server = ServerSettings { alpn: vec!["h2".into(), "http/1.1".into()], params, ..server(&[&leaf]) };
    let client = ClientSettings { alpn: vec!["http/1.1".into(), "h2".into()], ..client(trusting(&ca)) };
    let agreed = once(server, client, "a.test").await.unwrap();
    assert_eq!(agreed.alpn.as_deref(), Some("h2"));
    assert_eq!(agreed.version, Some(rustls::ProtocolVersion::TLSv1_2));
}

#[tokio::test]
async fn a_server_that_nothing_verifies_is_accepted_and_one_of_another_authority_is_not() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let leaf = ca.leaf(&["a.test"]);
    once(server(&[&leaf]), client(Verification::default()), "a.test").await.unwrap();
    let error = once(server(&[&leaf]), client(trusting(&other)), "a.test").await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let lax = Verification { accept_untrusted: true, ..trusting(&other) };
    once(server(&[&leaf]), client(lax), "a.test").await.unwrap();
}

#[tokio::test]
async fn names_in_the_certificate_are_matched() {
    let ca = Ca::new("ca");
    let leaf = ca.leaf_with(&["*.a.test"], |params| {
        params.subject_alt_names.push(SanType::URI("spiffe://td/x".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
    });
    for (check, sound) in [
        (exact(SanKind::Dns, "x.a.test"), true),
        (exact(SanKind::Dns, "x.y.a.test"), false),
        (exact(SanKind::Uri, "spiffe://td/x"), true),
        (exact(SanKind::Uri, "spiffe://td/y"), false),
        (exact(SanKind::IpAddress, "10.0.0.1"), true),
        (exact(SanKind::Email, "spiffe://td/x"), false),
    ] {
        let name = check.exact.clone();
        let verification = Verification { subject_alt_names: vec![check], ..trusting(&ca) };
        let result = once(server(&[&leaf]), client(verification), "whatever.test").await;
        assert_eq!(result.is_ok(), sound, "{name:?} {result:?}");
    }
    let by_name = || client(Verification { server_name: true, ..trusting(&ca) });
    once(server(&[&leaf]), by_name(), "x.a.test").await.unwrap();
    let error = once(server(&[&leaf]), by_name(), "x.b.test").await.unwrap_err();
    assert!(error.contains("NotValidForName"), "{error}");
}

#[tokio::test]
async fn pins_must_match() {
    let ca = Ca::new("ca");
    let leaf = ca.leaf(&["a.test"]);
    let fingerprint =
        |hex: &str| -> [u8; 32] { std::array::from_fn(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()) };
    let right = fingerprint(&leaf.certificate().info.fingerprint_256);
    let pinned = |hash| Verification { certificate_hashes: vec![hash], ..Verification::default() };
    once(server(&[&leaf]), client(pinned(right)), "a.test").await.unwrap();
    let error = once(server(&[&leaf]), client(pinned([0; 32])), "a.test").await.unwrap_err();
    assert!(error.contains("Hash"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_required_and_verified() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let (leaf, known, stranger) = (ca.leaf(&["a.test"]), ca.leaf(&["me.test"]), other.leaf(&["me.test"]));
    let asking = |required, verification| ServerSettings {
        client_auth: Some(ClientAuth { required, verification }),
        ..server(&[&leaf])
    };
    let with = |own: Option<&Leaf>| ClientSettings { certificate: own.map(Leaf::certificate), ..client(trusting(&ca)) };
    let agreed = once(asking(true, trusting(&ca)), with(Some(&known)), "a.test").await.unwrap();
    assert_eq!(agreed.client.unwrap().dns_sans, ["me.test"]);
    assert_eq!(once(asking(false, trusting(&ca)), with(None), "a.test").await.unwrap().client, None);
    assert!(once(asking(true, trusting(&ca)), with(None), "a.test").await.is_err());
    assert!(once(asking(true, trusting(&ca)), with(Some(&stranger)), "a.test").await.is_err());
    // Required, but nothing to verify it with: as Envoy does, any certificate is taken.
    once(asking(true, Verification::default()), with(Some(&stranger)), "a.test").await.unwrap();
}

#[tokio::test]
async fn dates_matter_unless_expired_certificates_are_allowed() {
    let ca = Ca::new("ca");
    let leaf = ca.leaf_with(&["a.test"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let error = once(server(&[&leaf]), client(trusting(&ca)), "a.test").await.unwrap_err();
    assert!(error.to_lowercase().contains("expired"), "{error}");
    let lax = Verification { allow_expired: true, ..trusting(&ca) };
    once(server(&[&leaf]), client(lax), "a.test").await.unwrap();
    assert_eq!(leaf.certificate().info.days_left(std::time::SystemTime::now()), 0);
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let ca = Ca::new("ca");
    let serial = |n: u8| rcgen::SerialNumber::from(vec![n]);
    let leaf = |n| ca.leaf_with(&["a.test"], |params| params.serial_number = Some(serial(n)));
    let crl = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2124, 1, 1),
        crl_number: serial(1),
        issuing_distribution_point: None,
        revoked_certs: vec![rcgen::RevokedCertParams {
            serial_number: serial(7),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let crl = crl.signed_by(&ca.issuer).unwrap().pem().unwrap().into_bytes();
    let checking = || client(Verification { crl: Some(crl.clone()), ..trusting(&ca) });
    once(server(&[&leaf(6)]), checking(), "a.test").await.unwrap();
    let error = once(server(&[&leaf(7)]), checking(), "a.test").await.unwrap_err();
    assert!(error.contains("Revoked"), "{error}");
}

#[tokio::test]
async fn a_self_signed_certificate_that_is_trusted_itself_is_accepted() {
    let key = KeyPair::generate().unwrap();
    let pem = CertificateParams::new(vec!["a.test".into()]).unwrap().self_signed(&key).unwrap().pem();
    let leaf = Leaf { pem: pem.clone(), key: key.serialize_pem() };
    let trusting = Verification { roots: Roots::Pem(pem.into_bytes()), ..Verification::default() };
    once(server(&[&leaf]), client(trusting), "a.test").await.unwrap();
}

#[tokio::test]
async fn tickets_under_given_keys_resume_at_another_server() {
    let ca = Ca::new("ca");
    let leaf = ca.leaf(&["a.test"]);
    let key = |n: u8| vec![n; 80];
    let with_keys = |keys| {
        let tickets = Tickets::Keys(keys);
        server_config(ServerSettings { tickets, stateful_resumption: false, ..server(&[&leaf]) }).unwrap()
    };
    let (first, rotated, foreign) = (with_keys(vec![key(1)]), with_keys(vec![key(2), key(1)]), with_keys(vec![key(3)]));
    let client = client_config(client(trusting(&ca))).unwrap();
    assert!(!handshake(&first, &client, "a.test").await.unwrap().resumed);
    assert!(handshake(&rotated, &client, "a.test").await.unwrap().resumed);
    assert!(!handshake(&foreign, &client, "a.test").await.unwrap().resumed);
}

#[tokio::test]
async fn resumption_can_be_disabled() {
    let ca = Ca::new("ca");
    let leaf = ca.leaf(&["a.test"]);
    for (tickets, stateful_resumption, resumes) in
        [(Tickets::Generated, false, true), (Tickets::Disabled, true, true), (Tickets::Disabled, false, false)]
    {
        let settings = ServerSettings { tickets: tickets.clone(), stateful_resumption, ..server(&[&leaf]) };
        let server = server_config(settings).unwrap();
        let client = client_config(client(trusting(&ca))).unwrap();
        handshake(&server, &client, "a.test").await.unwrap();
        let resumed = handshake(&server, &client, "a.test").await.unwrap().resumed;
        assert_eq!(resumed, resumes, "{tickets:?} {stateful_resumption}");
    }
}

#[test]
fn broken_parts_are_named() {
    let ca = Ca::new("ca");
    let (leaf, other) = (ca.leaf(&["a.test"]), ca.leaf(&["b.test"]));
    let check = |chain: &str, key: &str, wanted: &str| {
        let error = Certificate::from_pem(chain.as_bytes(), key.as_bytes(), None).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    };
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check("", &leaf.key, "certificate_chain: no PEM certificate in it");
    check(&leaf.key, &leaf.key, "certificate_chain: no PEM certificate in it");
    check(nonsense, &leaf.key, "certificate_chain: block 0 is not an X.509 certificate");
    check(&leaf.pem, "", "private_key: no PEM private key in it");
    check(&leaf.pem, encrypted, "private_key: it is encrypted");
    check(&leaf.pem, &other.key, "private_key: it is not the key of the certificate");
    let roots = |pem: &str| {
        let roots = Roots::Pem(pem.as_bytes().to_vec());
        client_config(client(Verification { roots, ..Verification::default() })).unwrap_err().to_string()
    };
    assert_eq!(roots("x"), "trusted_ca: no PEM certificate in it");
    assert!(roots(nonsense).starts_with("trusted_ca: certificate 0"), "{}", roots(nonsense));
    let keys = ServerSettings { tickets: Tickets::Keys(vec![vec![0; 80], vec![0; 48]]), ..server(&[&leaf]) };
    assert_eq!(server_config(keys).unwrap_err().to_string(), "session ticket key 1 has 48 bytes, 80 are needed");
}

#[test]
fn a_certificate_is_described() {
    let ca = Ca::new("the ca");
    let leaf = ca.leaf_with(&["a.test"], |params| {
        params.subject_alt_names.push(SanType::IpAddress("::1".parse().unwrap()));
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    });
    let info = leaf.certificate().info;
    assert_eq!(info.subject, "CN=leaf\\, of the tree");
    assert_eq!(info.issuer, "CN=the ca");
    assert_eq!((&info.dns_sans[..], &info.ip_sans[..]), (&["a.test".to_owned()][..], &["::1".to_owned()][..]));
    assert_eq!((info.fingerprint_256.len(), info.fingerprint_1.len()), (64, 40));
    assert!(info.pem_url_encoded.starts_with("-----BEGIN%20CERTIFICATE-----%0AMII"), "{}", info.pem_url_encoded);
    assert!(info.days_left(std::time::SystemTime::UNIX_EPOCH) > 40_000);
}
