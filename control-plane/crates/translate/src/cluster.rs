//! Clusters, and their endpoints.

use cp_model::Model;
use cp_model::cluster::{ClientTls, Cluster, Discovery, HashKey, ProxyProtocol, UpstreamProtocol};
use serde_json::{Value, json};

use crate::build::{duration, extension, set, set_list, typed};
use crate::{Audience, Origin, Out, TranslateError, secret};

mod balance;
mod connections;
mod discovery;
mod health;

pub(crate) use discovery::dns_cache;

/// Where the proxies' machines keep the authorities everyone trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(crate) fn cluster(
    model: &Model,
    cluster: &Cluster,
    origin: Origin<'_>,
    out: &mut Out,
) -> Result<(), TranslateError> {
    let mut body = json!({ "name": cluster.name });
    discovery::discovery(cluster, &mut body, origin, out)?;
    set(&mut body, "connect_timeout", cluster.connect_timeout.map(duration));
    balance::balance(cluster, &mut body);
    connections::connections(model, cluster, &mut body);
    set_list(&mut body, "health_checks", cluster.health.iter().map(health::check).collect());
    set(&mut body, "outlier_detection", cluster.outlier.as_ref().map(health::outlier));
    set(&mut body, "transport_socket", transport_socket(cluster, origin, out)?);
    let audience = if matches!(cluster.discovery, Discovery::Srv(_)) { Audience::Weir } else { Audience::All };
    out.write_for(audience, origin, &cluster.name, &typed("envoy.config.cluster.v3.Cluster", body))
}

fn transport_socket(cluster: &Cluster, origin: Origin<'_>, out: &mut Out) -> Result<Option<Value>, TranslateError> {
    let tls = match &cluster.tls {
        Some(tls) => Some(client_tls(cluster, tls, origin, out)?),
        None => None,
    };
    let Some(version) = cluster.proxy_protocol else { return Ok(tls) };
    let raw = || {
        extension(
            "envoy.transport_sockets.raw_buffer",
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
            json!({}),
        )
    };
    let config = match version {
        ProxyProtocol::V1 => json!({ "version": "V1" }),
        ProxyProtocol::V2 { pass_tlvs: false } => json!({ "version": "V2" }),
        ProxyProtocol::V2 { pass_tlvs: true } => {
            json!({ "version": "V2", "pass_through_tlvs": { "match_type": "INCLUDE_ALL" } })
        }
    };
    Ok(Some(extension(
        "envoy.transport_sockets.upstream_proxy_protocol",
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        json!({ "config": config, "transport_socket": tls.unwrap_or_else(raw) }),
    )))
}

fn client_tls(cluster: &Cluster, tls: &ClientTls, origin: Origin<'_>, out: &mut Out) -> Result<Value, TranslateError> {
    let server_name = tls.sni.clone().or_else(|| match &cluster.discovery {
        Discovery::Dns(dns) => dns.names.first().map(|e| e.address.host.clone()),
        _ => None,
    });
    let mut common = json!({});
    match cluster.protocol {
        UpstreamProtocol::H1 => (),
        UpstreamProtocol::H2 => common["alpn_protocols"] = json!(["h2"]),
        UpstreamProtocol::Auto => common["alpn_protocols"] = json!(["h2", "http/1.1"]),
    }
    if let Some(identity) = &tls.identity {
        let name = format!("cluster/{}/identity", cluster.name);
        out.write(origin, &name, &secret::key_pair(&name, identity))?;
        common["tls_certificate_sds_secret_configs"] = json!([secret::reference(&name)]);
    }
    if let (true, Some(ca)) = (tls.verify, &tls.ca) {
        let name = format!("cluster/{}/ca", cluster.name);
        out.write(origin, &name, &secret::authority(&name, ca, server_name.as_deref()))?;
        common["validation_context_sds_secret_config"] = secret::reference(&name);
    } else if tls.verify {
        let mut context = json!({ "trusted_ca": { "filename": SYSTEM_AUTHORITIES } });
        set(&mut context, "match_typed_subject_alt_names", server_name.as_deref().map(secret::subject));
        common["validation_context"] = context;
    }
    let mut context = json!({ "common_tls_context": common });
    set(&mut context, "sni", server_name);
    const MESSAGE: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    Ok(extension("envoy.transport_sockets.tls", MESSAGE, context))
}

/// Whether this cluster picks endpoints by the client's address, as TCP can.
pub(crate) fn hashes_client_ip(model: &Model, name: &str) -> bool {
    let hashed = |c: &&Cluster| c.name == name && c.balance.hash_keys().contains(&HashKey::ClientIp);
    model.clusters.iter().any(|c| hashed(&c))
}
