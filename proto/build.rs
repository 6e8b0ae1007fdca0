//! Generates the Rust types of the Envoy v3 API (from the committed descriptor set) and of our own protos.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// What we generate Rust for. Everything else in the set is still known to the JSON codec.
const ROOTS: &[&str] = &[
    "envoy/admin/v3/",
    "envoy/annotations/",
    "envoy/config/accesslog/v3/",
    "envoy/config/bootstrap/v3/",
    "envoy/config/cluster/v3/",
    "envoy/config/common/matcher/v3/",
    "envoy/config/core/v3/",
    "envoy/config/endpoint/v3/",
    "envoy/config/listener/v3/",
    "envoy/config/metrics/v3/",
    "envoy/config/rbac/v3/",
    "envoy/config/route/v3/",
    "envoy/config/trace/v3/opentelemetry.proto",
    "envoy/data/accesslog/v3/",
    "envoy/data/core/v3/health_check_event.proto",
    "envoy/extensions/access_loggers/",
    "envoy/extensions/clusters/",
    "envoy/extensions/common/ratelimit/v3/",
    "envoy/extensions/compression/",
    "envoy/extensions/filters/http/api_key_auth/",
    "envoy/extensions/filters/http/basic_auth/",
    "envoy/extensions/filters/http/buffer/",
    "envoy/extensions/filters/http/cache_v2/",
    "envoy/extensions/filters/http/compressor/",
    "envoy/extensions/filters/http/cors/",
    "envoy/extensions/filters/http/csrf/",
    "envoy/extensions/filters/http/decompressor/",
    "envoy/extensions/filters/http/dynamic_forward_proxy/",
    "envoy/extensions/filters/http/ext_authz/",
    "envoy/extensions/filters/http/ext_proc/",
    "envoy/extensions/filters/http/fault/",
    "envoy/extensions/filters/http/grpc_stats/",
    "envoy/extensions/filters/http/grpc_web/",
    "envoy/extensions/filters/http/header_mutation/",
    "envoy/extensions/filters/http/header_to_metadata/",
    "envoy/extensions/filters/http/health_check/",
    "envoy/extensions/filters/http/ip_tagging/",
    "envoy/extensions/filters/http/jwt_authn/",
    "envoy/extensions/filters/http/local_ratelimit/",
    "envoy/extensions/filters/http/on_demand/",
    "envoy/extensions/filters/http/original_src/",
    "envoy/extensions/filters/http/rate_limit_quota/",
    "envoy/extensions/filters/http/ratelimit/",
    "envoy/extensions/filters/http/rbac/",
    "envoy/extensions/filters/http/router/",
    "envoy/extensions/filters/http/set_filter_state/",
    "envoy/extensions/filters/http/set_metadata/",
    "envoy/extensions/filters/http/stateful_session/",
    "envoy/extensions/filters/http/transform/",
    "envoy/extensions/filters/listener/",
    "envoy/extensions/filters/network/connection_limit/",
    "envoy/extensions/filters/network/http_connection_manager/",
    "envoy/extensions/filters/network/local_ratelimit/",
    "envoy/extensions/filters/network/rbac/",
    "envoy/extensions/filters/network/set_filter_state/",
    "envoy/extensions/filters/network/sni_cluster/",
    "envoy/extensions/filters/network/sni_dynamic_forward_proxy/",
    "envoy/extensions/filters/network/tcp_proxy/",
    "envoy/extensions/filters/udp/udp_proxy/",
    "envoy/extensions/http/",
    "envoy/extensions/load_balancing_policies/",
    "envoy/extensions/matching/",
    "envoy/extensions/network/dns_resolver/",
    "envoy/extensions/path/",
    "envoy/extensions/rbac/",
    "envoy/extensions/regex_engines/",
    "envoy/extensions/request_id/",
    "envoy/extensions/retry/",
    "envoy/extensions/transport_sockets/proxy_protocol/",
    "envoy/extensions/transport_sockets/raw_buffer/",
    "envoy/extensions/transport_sockets/tls/",
    "envoy/extensions/upstreams/http/v3/",
    "envoy/extensions/health_checkers/",
    "envoy/extensions/health_check/",
    "envoy/service/accesslog/v3/",
    "envoy/service/auth/v3/",
    "envoy/service/cluster/v3/",
    "envoy/service/discovery/v3/",
    "envoy/service/endpoint/v3/",
    "envoy/service/extension/v3/",
    "envoy/service/health/v3/",
    "envoy/service/listener/v3/",
    "envoy/service/load_stats/v3/",
    "envoy/service/ratelimit/v3/",
    "envoy/service/rate_limit_quota/v3/",
    "envoy/service/route/v3/",
    "envoy/service/runtime/v3/",
    "envoy/service/secret/v3/",
    "envoy/service/status/v3/",
    "envoy/type/",
    "google/rpc/status.proto",
    "udpa/",
    "validate/",
    "xds/",
];

fn envoy_set() -> FileDescriptorSet {
    let packed = std::fs::read("envoy/envoy.binpb.gz").expect("the committed descriptor set");
    let mut raw = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut raw).expect("a gzip file");
    FileDescriptorSet::decode(&raw[..]).expect("a FileDescriptorSet")
}

/// The files named by `ROOTS` and all they import, in the order of the set (dependencies first).
fn closure(set: FileDescriptorSet) -> FileDescriptorSet {
    let by_name: BTreeMap<&str, &FileDescriptorProto> = set.file.iter().map(|f| (f.name(), f)).collect();
    let mut wanted = BTreeSet::new();
    let mut todo: Vec<&str> =
        by_name.keys().copied().filter(|n| ROOTS.iter().any(|r| n.starts_with(r)) && !n.contains("/v2")).collect();
    while let Some(name) = todo.pop() {
        if wanted.insert(name.to_owned()) {
            todo.extend(by_name[name].dependency.iter().map(String::as_str));
        }
    }
    FileDescriptorSet { file: set.file.iter().filter(|f| wanted.contains(f.name())).cloned().collect() }
}

fn config() -> tonic_prost_build::Config {
    let mut config = tonic_prost_build::Config::new();
    config
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .bytes(["."])
        .btree_map(["."])
        .extern_path(".google.protobuf.Any", "crate::Any");
    config
}

/// Writes the types of `set` to `OUT_DIR/<name>/`, with a `mod.rs` that nests them by package.
fn generate(set: FileDescriptorSet, out: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(out)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(out)
        .include_file("mod.rs")
        .compile_fds_with_config(set, config())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=envoy/envoy.binpb.gz");
    println!("cargo:rerun-if-changed=weir");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    generate(closure(envoy_set()), &out.join("envoy"))?;

    let set = protox::compile(own_files(Path::new("weir")), ["."])?;
    std::fs::write(out.join("weir.binpb"), set.encode_to_vec())?;
    generate(set, &out.join("weir"))?;
    Ok(())
}

fn own_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("the weir proto folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(own_files(&path));
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    found.sort();
    found
}
