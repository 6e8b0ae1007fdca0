//! An example with the origins that it names, on free ports.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use integration_tests::eventually::PATIENCE;
use integration_tests::proxy::{Running, try_start_text};
use integration_tests::tls::Identity;
use integration_tests::upstream::{Origin, nowhere, reply_with};
use integration_tests::wire::{Message, Wire};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConnection, StreamOwned};
use tempfile::TempDir;

pub(super) type Tls = StreamOwned<ClientConnection, TcpStream>;

pub(super) struct Example {
    proxy: Running,
    origins: BTreeMap<u16, Origin>,
    identity: Identity,
    directory: TempDir,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/envoy")
}

/// The names of all examples.
pub(super) fn all() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap();
    let names = files.filter_map(|file| file.unwrap().file_name().to_str()?.strip_suffix(".yaml").map(str::to_owned));
    names.collect()
}

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

pub(super) fn get_with(path: &str, field: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n{field}\r\n\r\n")
}

/// All of a message as text.
pub(super) fn text(message: &Message) -> String {
    let fields: String = message.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    format!("{}\n{fields}{}", message.start, message.text())
}

/// Says who it is and what it saw; takes WebSockets and sends back what they bring.
fn origin(port: u16) -> Origin {
    Origin::scripted(move |_, wire, origin| {
        while let Some(request) = wire.try_message() {
            if request.header("upgrade") == Some("websocket") {
                wire.send("HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
                while let [byte] = wire.bytes(1)[..] {
                    wire.send([byte]);
                }
                return;
            }
            let body = format!("{port} {}", text(&request));
            origin.note(request);
            wire.send(reply_with(200, &[("content-type", "text/plain"), ("x-secret", "s")], &body));
        }
    })
}

/// One request within TLS: says which name the client asked for, and what it saw.
fn tls_origin(identity: &Identity) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = identity.server(&[b"h2", b"http/1.1"]);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                while let Ok(request) = head(&mut stream) {
                    let name = stream.conn.server_name().unwrap_or("none");
                    let is_upgrade = request.contains("upgrade: websocket");
                    let body = format!("sni {name} {request}");
                    let answer = if is_upgrade {
                        "HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_owned()
                    } else {
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                    };
                    if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Reads up to the end of a head.
fn head(stream: &mut impl Read) -> io::Result<String> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        bytes.extend_from_slice(&byte);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

// === impl Example ===

impl Example {
    #[track_caller]
    pub(super) fn start(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// With these in place of the origins on some ports.
    #[track_caller]
    pub(super) fn with(name: &str, own: &[(u16, SocketAddr)]) -> Self {
        Self::try_with(name, own, false).unwrap_or_else(|error| panic!("{name} is not served: {error}"))
    }

    /// The origins themselves speak TLS.
    #[track_caller]
    pub(super) fn passthrough(name: &str) -> Self {
        Self::try_with(name, &[], true).unwrap_or_else(|error| panic!("{name} is not served: {error}"))
    }

    pub(super) fn try_with(name: &str, own: &[(u16, SocketAddr)], tls: bool) -> Result<Self, String> {
        let identity = Identity::new(&["localhost", "a.test", "x.b.test", "b.test"]);
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("cert.pem"), identity.certificate_pem()).unwrap();
        std::fs::write(path("key.pem"), identity.key_pem()).unwrap();
        let mut origins = BTreeMap::new();
        let mut ports: BTreeMap<u16, SocketAddr> = own.iter().copied().collect();
        ports.insert(9901, nowhere());
        let mut replaced = |mut text: String| {
            for (word, file) in [("CERT", "cert.pem"), ("KEY", "key.pem"), ("FILES", "")] {
                text = text.replace(word, path(file).to_str().unwrap().trim_end_matches('/'));
            }
            for port in (8080..=8089).chain([8443, 9901]) {
                let name = format!("port_value: {port}}}");
                if !text.contains(&name) {
                    continue;
                }
                let address = *ports.entry(port).or_insert_with(|| {
                    if port == 8443 || tls {
                        return tls_origin(&identity);
                    }
                    origins.entry(port).or_insert_with(|| origin(port)).address
                });
                text = text.replace(&name, &format!("port_value: {}}}", address.port()));
            }
            text.replace("address: localhost", "address: 127.0.0.1").replace("port_value: 10000}", "port_value: 0}")
        };
        for file in ["lds.yaml", "cds.yaml", "rds.yaml", "sds.yaml"] {
            let text = std::fs::read_to_string(folder().join("files").join(file)).unwrap();
            std::fs::write(path(file), replaced(text)).unwrap();
        }
        let text = replaced(std::fs::read_to_string(folder().join(format!("{name}.yaml"))).unwrap());
        let proxy = try_start_text(&text, 1)?;
        Ok(Self { proxy, origins, identity, directory })
    }

    #[track_caller]
    pub(super) fn origin(&self, port: u16) -> Origin {
        self.origins[&port].clone()
    }

    /// A file that goes with the example, with the ports of this one.
    pub(super) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    #[track_caller]
    pub(super) fn address(&self) -> SocketAddr {
        self.proxy.address("l10000")
    }

    #[track_caller]
    pub(super) fn connect(&self) -> Wire {
        Wire::connect(self.address())
    }

    /// A client that trusts the example.
    pub(super) fn client(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        self.identity.client(alpn)
    }

    pub(super) fn try_tls(&self, server: &str, alpn: &[&[u8]]) -> io::Result<Tls> {
        handshake(self.address(), server, self.client(alpn))
    }

    #[track_caller]
    pub(super) fn tls(&self, server: &str, alpn: &[&[u8]]) -> Tls {
        self.try_tls(server, alpn).unwrap_or_else(|error| panic!("no TLS with {server}: {error}"))
    }

    /// One request within TLS; the head of its answer and the body.
    #[track_caller]
    pub(super) fn ask_tls(&self, server: &str, alpn: &[&[u8]], request: &str) -> String {
        ask(self.tls(server, alpn), request)
    }

    /// The same by a client with a certificate.
    #[track_caller]
    pub(super) fn ask_tls_as_client(&self, server: &str, request: &str) -> String {
        ask(handshake(self.address(), server, self.identity.client_with_certificate()).unwrap(), request)
    }
}

fn handshake(to: SocketAddr, server: &str, config: Arc<ClientConfig>) -> io::Result<Tls> {
    let name = ServerName::try_from(server.to_owned()).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), TcpStream::connect(to)?);
    stream.sock.set_read_timeout(Some(PATIENCE))?;
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

#[track_caller]
fn ask(mut stream: Tls, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let head = head(&mut stream).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    format!("{head}{}", String::from_utf8_lossy(&body))
}
