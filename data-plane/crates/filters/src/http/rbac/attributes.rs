//! Expressions, and the attributes of a request that they are about, under Envoy's names.
//!
//! Only what an expression refers to is made for it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, Program, Value};
use dp_http::info::{Address, PeerCertificate};
use dp_http::{RequestHead, StreamInfo, name};
use shared_config::http_filter::rbac::Cel;

/// The standard functions; making them takes longer than evaluating.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

pub(super) struct Expression {
    /// `None` never happens, as the decoder compiled the same text; it would count as false.
    program: Option<Program>,
    roots: Vec<&'static str>,
}

type Fields = HashMap<&'static str, Value>;

impl Expression {
    pub(super) fn compile(cel: &Cel) -> Self {
        let program = Program::compile(cel.as_str()).ok();
        let roots = ["request", "source", "destination", "connection"];
        let uses = |root: &&str| program.as_ref().is_some_and(|program| program.references().has_variable(*root));
        Self { roots: roots.into_iter().filter(uses).collect(), program }
    }

    pub(super) fn is_true(&self, info: &StreamInfo, head: &RequestHead) -> bool {
        let Some(program) = &self.program else { return false };
        let mut context = Context::with_env(Arc::clone(&ENV));
        for root in &self.roots {
            let fields = match *root {
                "request" => request(info, head),
                "source" => address(&info.client),
                "destination" => address(&info.connection.local),
                _ => connection(info),
            };
            let map: HashMap<String, Value> = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
            context.add_variable_from_value(*root, map);
        }
        matches!(program.execute(&context), Ok(Value::Bool(true)))
    }
}

fn text(value: &str) -> Value {
    Value::String(Arc::new(value.to_owned()))
}

fn request(info: &StreamInfo, head: &RequestHead) -> Fields {
    let mut headers: HashMap<String, Value> = HashMap::new();
    for (name, value) in head.headers.iter() {
        let Ok(value) = std::str::from_utf8(value) else { continue };
        match headers.get_mut(name) {
            Some(Value::String(all)) => {
                let all = Arc::make_mut(all);
                all.push(',');
                all.push_str(value);
            }
            _ => drop(headers.insert(name.to_owned(), text(value))),
        }
    }
    for (name, value) in [
        (":authority", head.authority()),
        (":path", head.path()),
        (":method", head.method.as_str()),
        (":scheme", head.scheme.as_str()),
    ] {
        headers.insert(name.to_owned(), text(value));
    }
    let field = |name| text(head.headers.text(name).unwrap_or_default());
    HashMap::from([
        ("path", text(head.path())),
        ("url_path", text(head.path_only())),
        ("host", text(head.authority())),
        ("scheme", text(head.scheme.as_str())),
        ("method", text(head.method.as_str())),
        ("headers", headers.into()),
        ("referer", field(&name::REFERER)),
        ("useragent", field(&name::USER_AGENT)),
        ("id", text(&info.request_id)),
        ("protocol", text(info.protocol.as_str())),
        ("query", text(head.query())),
    ])
}

fn address(address: &Address) -> Fields {
    let mut fields = HashMap::from([("address", text(&address.to_string()))]);
    if let Some(port) = address.port() {
        fields.insert("port", Value::Int(port.into()));
    }
    fields
}

fn connection(info: &StreamInfo) -> Fields {
    let connection = &info.connection;
    let mut fields = HashMap::from([
        ("id", Value::UInt(connection.id)),
        ("mtls", Value::Bool(connection.tls.as_ref().is_some_and(|tls| tls.peer.is_some()))),
    ]);
    if let Some(name) = &connection.requested_server_name {
        fields.insert("requested_server_name", text(name));
    }
    let Some(tls) = &connection.tls else { return fields };
    fields.insert("tls_version", text(tls.version));
    let mut add = |certificate: &PeerCertificate, subject, uri, dns| {
        fields.insert(subject, text(&certificate.subject));
        for (name, sans) in [(uri, &certificate.uri_sans), (dns, &certificate.dns_sans)] {
            if let Some(first) = sans.first() {
                fields.insert(name, text(first));
            }
        }
    };
    if let Some(local) = &tls.local {
        add(local, "subject_local_certificate", "uri_san_local_certificate", "dns_san_local_certificate");
    }
    if let Some(peer) = &tls.peer {
        add(peer, "subject_peer_certificate", "uri_san_peer_certificate", "dns_san_peer_certificate");
        fields.insert("sha256_peer_certificate_digest", text(&peer.fingerprint_256));
    }
    fields
}
