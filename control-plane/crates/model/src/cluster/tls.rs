//! TLS to the endpoints of a cluster.

use crate::listener::{KeyPair, certificate, key_pair};
use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Keys, Reader};

#[derive(Debug, Clone, PartialEq)]
pub struct ClientTls {
    pub sni: Option<String>,
    /// None: the system's authorities.
    pub ca: Option<String>,
    pub identity: Option<KeyPair>,
    pub verify: bool,
}

pub(crate) fn client_tls(r: &mut Reader<'_>, node: &Node) -> Option<ClientTls> {
    const TLS: Keys = Keys { known: &["sni", "ca", "cert", "key", "verify"], not_yet: &["alpn", "min_version"] };
    if let Value::Scalar { .. } = node.value {
        let on = r.truth(node)?;
        return on.then_some(ClientTls { sni: None, ca: None, identity: None, verify: true });
    }
    let fields = r.fields(node, TLS)?;
    let sni = r.field(&fields, "sni", Reader::word);
    let ca = r.field(&fields, "ca", certificate);
    let identity = match fields.get("cert").is_some() || fields.get("key").is_some() {
        true => key_pair(r, &fields),
        false => None,
    };
    let verify = r.field(&fields, "verify", Reader::truth).unwrap_or(true);
    if let (Some(node), false) = (fields.get("ca"), verify) {
        r.at("ca", |r| r.wrong(node, Code::Conflict, "`ca` means nothing with `verify: false`"));
    }
    Some(ClientTls { sni, ca, identity, verify })
}
