//! The same key and the same endpoints: the same choice as stock Envoy's.
//!
//! `integration-tests/peers/hash_vectors.py` asked Envoy 1.40 and wrote the file.

use std::net::SocketAddr;

use serde_json::Value;
use shared_config::core::Address as ConfigAddress;

use super::*;

/// The endpoint for each key, by number.
fn picks(algorithm: Algorithm, weights: &[u64]) -> Vec<u64> {
    let list = (1..).zip(weights).map(|(n, weight)| {
        let mut endpoint = EndpointConfig::new(ConfigAddress::Ip(SocketAddr::from(([127, 77, 0, n], 80))));
        endpoint.weight = u32::try_from(*weight).unwrap();
        endpoint
    });
    let cluster = balanced(algorithm, &Assignment::of(list.collect()));
    let number = |key: u32| {
        let hash = stdx::hash::xxh64(format!("key-{key}").as_bytes(), 0);
        let picked = crate::cluster::tests::pick(&cluster, Some(hash), &[], 0).unwrap();
        cluster.endpoints().position(|e| e.state.id == picked.state.id).unwrap() as u64
    };
    (0..200).map(number).collect()
}

#[test]
fn ring_hash_and_maglev_choose_as_envoy_does() {
    let ring = |minimum_size, maximum_size, function| {
        Algorithm::RingHash(RingHash { minimum_size, maximum_size, function, consistent: Consistent::default() })
    };
    let maglev = |table_size| Algorithm::Maglev(Maglev { table_size, consistent: Consistent::default() });
    let text = include_str!("../../../testdata/envoy_picks.json");
    let document: Value = serde_json::from_str(text).unwrap();
    let cases = document["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let numbers =
            |name: &str| -> Vec<u64> { case[name].as_array().unwrap().iter().filter_map(Value::as_u64).collect() };
        let name = case["name"].as_str().unwrap();
        let algorithm = match name {
            "ring" => ring(1024, 8_388_608, HashFunction::Xx),
            "ring_murmur2" => ring(1024, 8_388_608, HashFunction::Murmur2),
            "ring_weighted" => ring(4096, 8_388_608, HashFunction::Xx),
            "ring_small" => ring(16, 64, HashFunction::Xx),
            "maglev" | "maglev_weighted" => maglev(65_537),
            "maglev_small" => maglev(251),
            other => panic!("an unknown case {other}"),
        };
        assert_eq!(picks(algorithm, &numbers("weights")), numbers("picks"), "{name}");
    }
}
