//! `compress` as one envoy.filters.http.compressor an algorithm; one more set a policy with limits of its own, because a route
//! can switch a compressor on and cannot change it.

use cp_model::policy::{Algorithm, Compress};
use serde_json::{Value, json};

use super::disabled;
use crate::build::{extension, set, typed};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Compressor {
    /// Empty for the compressors that all policies without limits of their own share.
    policy: String,
    algorithm: Algorithm,
    min_size: Option<u32>,
    types: Vec<String>,
}

pub(super) fn compressors(policy: &str, compress: &Compress) -> Vec<Compressor> {
    let shared = compress.min_size.is_none() && compress.types.is_empty();
    let of = |algorithm: &Algorithm| Compressor {
        policy: if shared { String::new() } else { policy.to_owned() },
        algorithm: *algorithm,
        min_size: compress.min_size,
        types: compress.types.clone(),
    };
    compress.algorithms.iter().map(of).collect()
}

impl Compressor {
    pub(super) fn name(&self) -> String {
        let (algorithm, _) = library(self.algorithm);
        match self.policy.as_str() {
            "" => format!("envoy.filters.http.compressor.{algorithm}"),
            policy => format!("envoy.filters.http.compressor.{algorithm}.{policy}"),
        }
    }

    pub(super) fn idle(&self) -> Value {
        let (name, message) = library(self.algorithm);
        let mut config = json!({ "compressor_library": extension(name, message, json!({})) });
        let mut common = json!({});
        set(&mut common, "min_content_length", self.min_size);
        set(&mut common, "content_type", (!self.types.is_empty()).then(|| json!(self.types)));
        if common.as_object().is_some_and(|c| !c.is_empty()) {
            config["response_direction_config"] = json!({ "common_config": common });
        }
        disabled(&self.name(), "envoy.extensions.filters.http.compressor.v3.Compressor", config)
    }
}

fn library(algorithm: Algorithm) -> (&'static str, &'static str) {
    match algorithm {
        Algorithm::Brotli => ("brotli", "envoy.extensions.compression.brotli.compressor.v3.Brotli"),
        Algorithm::Zstd => ("zstd", "envoy.extensions.compression.zstd.compressor.v3.Zstd"),
        Algorithm::Gzip => ("gzip", "envoy.extensions.compression.gzip.compressor.v3.Gzip"),
    }
}

pub(super) fn per_route() -> Value {
    typed(
        "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute",
        json!({ "overrides": { "response_direction_config": {} } }),
    )
}
