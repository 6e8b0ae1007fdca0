//! TLS contexts and secrets.

use proto::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::*;
use crate::invalid::Problems;

const CERTIFICATE: &str = "{certificate_chain: {filename: /c}, private_key: {inline_string: k}}";

fn read_downstream(yaml: &str) -> Result<DownstreamTls, String> {
    let proto: pb::DownstreamTlsContext = proto::json::from_yaml(&yaml.replace("CERT", CERTIFICATE)).unwrap();
    let mut p = Problems::default();
    let context = downstream(&proto, &mut p);
    p.finish(context).map_err(|invalid| invalid.to_string())
}

fn read_upstream(yaml: &str) -> (Result<UpstreamTls, String>, usize) {
    let proto: pb::UpstreamTlsContext = proto::json::from_yaml(&yaml.replace("CERT", CERTIFICATE)).unwrap();
    let mut p = Problems::default();
    let context = upstream(&proto, &mut p);
    let warnings = p.warnings().len();
    (p.finish(context).map_err(|invalid| invalid.to_string()), warnings)
}

/// Checks how a server with a certificate and these common fields is refused.
#[track_caller]
fn check(fields: &str, wanted: &str) {
    let result = read_downstream(&format!("{{common_tls_context: {{tls_certificates: [CERT], {fields}}}}}"));
    assert_eq!(result.unwrap_err(), wanted);
}

#[test]
fn a_server_context_is_read() {
    let context = read_downstream(
        "{common_tls_context: {tls_certificates: [CERT], alpn_protocols: [h2], tls_params: \
         {tls_minimum_protocol_version: TLSv1_3, cipher_suites: \
         ['[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]'], ecdh_curves: [P-256]}, \
         combined_validation_context: {default_validation_context: {}, validation_context_sds_secret_config: \
         {name: ca, sds_config: {ads: {}}}}}, require_client_certificate: true, \
         session_ticket_keys_sds_secret_config: {name: keys, sds_config: {ads: {}}}}",
    )
    .unwrap();
    assert!(context.require_client_certificate && context.stateful_resumption);
    assert_eq!(context.common.params.minimum, Some(TlsVersion::V1_3));
    assert_eq!(context.common.params.cipher_suites.len(), 2);
    let names: Vec<_> = context.secrets().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, ["ca", "keys"]);
}

#[test]
fn what_is_wrong_or_not_implemented_is_refused_by_name() {
    assert!(read_downstream("{}").unwrap_err().starts_with("common_tls_context: a server needs tls_certificates"));
    check(
        "tls_params: {tls_minimum_protocol_version: TLSv1_1}",
        "common_tls_context.tls_params.tls_minimum_protocol_version: TLS 1.0 and 1.1 are not implemented by \
         weir-proxy, use TLSv1_2",
    );
    check(
        "tls_params: {cipher_suites: [AES128-SHA]}",
        "common_tls_context.tls_params.cipher_suites[0]: cipher suite \"AES128-SHA\" is not implemented by weir-proxy, \
         which has ECDHE with AES-GCM and ChaCha20",
    );
    check(
        "validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]}",
        "common_tls_context.validation_context.match_typed_subject_alt_names: needs trusted_ca: without it any \
         certificate with the name would be accepted",
    );
    check(
        "validation_context: {verify_certificate_hash: [xyz]}",
        "common_tls_context.validation_context.verify_certificate_hash[0]: \"xyz\" is not a SHA-256 in hex",
    );
}

#[test]
fn hashes_are_read_with_and_without_colons() {
    let plain = "ab".repeat(32);
    let colons = vec!["AB"; 32].join(":");
    for hash in [plain, colons] {
        let yaml = format!("{{common_tls_context: {{validation_context: {{verify_certificate_hash: ['{hash}']}}}}}}");
        let Validation::Inline(context) = read_upstream(&yaml).0.unwrap().common.validation else { panic!() };
        assert_eq!(context.certificate_hashes, [[0xab; 32]]);
    }
}

#[test]
fn a_client_that_verifies_nothing_is_warned_about() {
    let (context, warnings) = read_upstream("{sni: a.b}");
    assert_eq!((context.unwrap().max_session_keys, warnings), (1, 1));
    let (_, warnings) = read_upstream("{common_tls_context: {validation_context: {trusted_ca: {filename: /ca}}}}");
    assert_eq!(warnings, 0);
    let (refused, _) = read_upstream("{auto_sni_san_validation: true}");
    assert_eq!(refused.unwrap_err(), "auto_sni_san_validation: needs a validation_context with trusted_ca");
}

#[test]
fn a_combined_context_is_the_secret_over_the_default() {
    let file = |path: &str| Some(DataSource::File { path: path.into(), watched_directory: None });
    let default = ValidationContext {
        trusted_ca: file("/a"),
        spki_hashes: vec![[1; 32]],
        crl: file("/crl"),
        ..ValidationContext::default()
    };
    let secret =
        ValidationContext { trusted_ca: file("/b"), spki_hashes: vec![[2; 32]], ..ValidationContext::default() };
    let merged = default.merged(&secret);
    assert_eq!((merged.trusted_ca, merged.crl), (file("/b"), file("/crl")));
    assert_eq!(merged.spki_hashes, [[1; 32], [2; 32]]);
}
