//! A name server on loopback, by UDP and TCP, that knows what a test tells it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};

/// A name server; it ends with the test process.
#[derive(Clone)]
pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    by_tcp: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Zone {
    addresses: HashMap<String, Vec<Ipv4Addr>>,
    services: HashMap<String, Vec<Service>>,
    fails: bool,
    truncates: bool,
}

/// One SRV record.
#[derive(Clone)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: &'static str,
}

const TTL: u32 = 1;

// === impl NameServer ===

impl NameServer {
    /// A server that knows no name.
    ///
    /// # Panics
    /// The loopback has no port that is free for UDP and TCP.
    pub fn start() -> Self {
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
                Some((UdpSocket::bind(tcp.local_addr().ok()?).ok()?, tcp))
            })
            .expect("the loopback has a free port");
        let address = tcp.local_addr().expect("a bound socket has an address");
        let server = Self { address, zone: Arc::default(), by_tcp: Arc::default(), asked: Arc::default() };
        let shared = server.clone();
        thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = udp.recv_from(&mut packet) {
                if let Some(reply) = shared.reply(&packet[..length], true) {
                    let _ = udp.send_to(&reply, from);
                }
            }
        });
        let shared = server.clone();
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || shared.converse(stream));
            }
        });
        server
    }

    /// From now on, `name` has these addresses; without any it does not exist.
    pub fn set(&self, name: &str, addresses: &[[u8; 4]]) -> &Self {
        let addresses = addresses.iter().copied().map(Ipv4Addr::from).collect();
        self.zone().addresses.insert(name.to_owned(), addresses);
        self
    }

    pub fn set_services(&self, name: &str, services: &[Service]) -> &Self {
        self.zone().services.insert(name.to_owned(), services.to_vec());
        self
    }

    /// Every question is answered with SERVFAIL.
    pub fn fail(&self, fails: bool) -> &Self {
        self.zone().fails = fails;
        self
    }

    /// Answers do not fit into UDP.
    pub fn truncate(&self) -> &Self {
        self.zone().truncates = true;
        self
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn asked_by_tcp(&self) -> usize {
        self.by_tcp.load(Ordering::SeqCst)
    }

    /// As `typed_dns_resolver_config` of a cluster.
    pub fn resolver(&self) -> Value {
        json!({ "name": "dns", "typed_config": self.resolver_config() })
    }

    pub fn resolver_config(&self) -> Value {
        json!({
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [crate::config::socket(self.address)],
            "dns_resolver_options": { "no_default_search_domain": true },
        })
    }

    fn zone(&self) -> std::sync::MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn converse(&self, mut stream: TcpStream) {
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut query).is_err() {
                return;
            }
            self.by_tcp.fetch_add(1, Ordering::SeqCst);
            let Some(reply) = self.reply(&query, false) else { return };
            let Ok(length) = u16::try_from(reply.len()) else { return };
            if stream.write_all(&[&length.to_be_bytes()[..], &reply].concat()).is_err() {
                return;
            }
        }
    }

    /// RFC 1035 §4: the header, the question again, the records.
    fn reply(&self, query: &[u8], is_udp: bool) -> Option<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (name, end) = name_at(query, 12)?;
        let question = query.get(12..end + 4)?;
        let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
        let zone = self.zone();
        let exists = zone.addresses.get(&name).is_some_and(|a| !a.is_empty()) || zone.services.contains_key(&name);
        let records: Vec<Vec<u8>> = match kind {
            1 => zone.addresses.get(&name).into_iter().flatten().map(|ip| ip.octets().to_vec()).collect(),
            33 => zone.services.get(&name).into_iter().flatten().map(Service::encode).collect(),
            _ => Vec::new(),
        };
        let (code, records) = match (zone.fails, exists) {
            (true, _) => (2, Vec::new()),
            (false, false) => (3, Vec::new()),
            (false, true) => (0, records),
        };
        let truncated = is_udp && zone.truncates;
        let records = if truncated { Vec::new() } else { records };
        let count = u8::try_from(records.len()).ok()?;
        let flags = if truncated { 0x87 } else { 0x85 };
        let mut reply = vec![query[0], query[1], flags, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
        reply.extend(question);
        for data in records {
            reply.extend([0xc0, 12]);
            reply.extend(kind.to_be_bytes());
            reply.extend([0, 1]);
            reply.extend(TTL.to_be_bytes());
            reply.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            reply.extend(data);
        }
        Some(reply)
    }
}

impl Service {
    fn encode(&self) -> Vec<u8> {
        let mut data: Vec<u8> = [self.priority, self.weight, self.port].iter().flat_map(|n| n.to_be_bytes()).collect();
        for label in self.target.split('.') {
            data.push(u8::try_from(label.len()).unwrap_or(0));
            data.extend(label.as_bytes());
        }
        data.push(0);
        data
    }
}

/// The name that begins at `at`, in lower case, and where it ends.
fn name_at(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}
