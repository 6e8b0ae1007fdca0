//! Whole exchanges through a compressor.

use std::io::Read;

use dp_http::Method;
use shared_config::http_filter::compressor::{BrotliMode, Library};
use shared_config::http_filter::{FilterOverride, router};
use shared_config::matcher::StringMatcher;

use super::*;
use crate::services::KeepStore;
use crate::testing::{Exchange, Origin, Proxy, answer, filter};

const GZIP: Library = Library::Gzip { level: 6 };
const BROTLI: Library = Library::Brotli {
    quality: 3,
    mode: BrotliMode::Generic,
    window_bits: 18,
    input_block_bits: 24,
    disable_literal_context_modeling: false,
};
const ZSTD: Library = Library::Zstd { level: 3, checksum: true };
const TEXT: &str = "a text that is long enough to be compressed, long enough to be compressed";

fn config(library: Library) -> Config {
    let direction = Direction {
        enabled: true.into(),
        min_content_length: 30,
        content_types: vec![StringMatcher::exact("text/plain")],
    };
    Config {
        library,
        library_name: "text".into(),
        response_stats: true,
        request: None,
        response: direction,
        disable_on_etag_header: false,
        weaken_etag_on_compress: false,
        remove_accept_encoding_header: false,
        uncompressible_response_codes: vec![],
        choose_first: false,
    }
}

fn decoded(encoding: Option<&str>, body: &[u8]) -> String {
    let mut text = String::new();
    match encoding {
        None => text = String::from_utf8(body.to_vec()).unwrap(),
        Some("gzip") => _ = flate2::read::GzDecoder::new(body).read_to_string(&mut text).unwrap(),
        Some("br") => _ = brotli::Decompressor::new(body, 4096).read_to_string(&mut text).unwrap(),
        Some("zstd") => text = String::from_utf8(zstd::decode_all(body).unwrap()).unwrap(),
        Some(other) => panic!("{other}"),
    }
    text
}

async fn send(configs: &[Config], overrides: &[Override], accepts: &str, origin: &Origin) -> Exchange {
    let mut filters: Vec<_> =
        configs.iter().map(|c| filter("compressor", HttpFilterConfig::Compressor(c.clone()))).collect();
    filters.push(filter("router", HttpFilterConfig::Router(router::Config::default())));
    let levels: Vec<_> = overrides.iter().map(|o| ("compressor", FilterOverride::Compressor(*o))).collect();
    let proxy = Proxy::with(&filters, &levels, &KeepStore::default());
    let mut head = RequestHead::new(Method::Get, "h", "/");
    if !accepts.is_empty() {
        head.headers.append("accept-encoding", accepts.as_bytes());
    }
    proxy.exchange(head, &[], origin).await
}

/// The encoding, after making sure that the body decodes to what the origin sent.
async fn check(configs: &[Config], accepts: &str, origin: &Origin, expected: Option<&str>) {
    let exchange = send(configs, &[], accepts, origin).await;
    let encoding = exchange.head.headers.text("content-encoding");
    assert_eq!(encoding, expected);
    assert_eq!(decoded(encoding, &exchange.body), origin.chunks.concat());
    if expected.is_some() {
        assert_eq!(exchange.head.headers.text("vary"), Some("Accept-Encoding"));
        assert!(!exchange.head.headers.contains("content-length"));
    }
}

fn text() -> Origin {
    answer(200, &[("content-type", "text/plain; charset=utf-8"), ("content-length", "146")], &[TEXT, TEXT])
}

#[tokio::test]
async fn each_library_compresses_what_the_client_accepts() {
    for (library, name) in [(GZIP, "gzip"), (BROTLI, "br"), (ZSTD, "zstd")] {
        check(&[config(library)], name, &text(), Some(name)).await;
        check(&[config(library)], "*", &text(), Some(name)).await;
        let with_trailers = Origin { trailers: Some(Headers::default()), ..text() };
        check(&[config(library)], name, &with_trailers, Some(name)).await;
    }
    let exchange = send(&[config(GZIP)], &[], "", &text()).await;
    assert_eq!(decoded(None, &exchange.body).len(), 146);
    assert_eq!(exchange.head.headers.text("vary"), Some("Accept-Encoding"), "a cache must know");
}

#[tokio::test]
async fn one_compressor_of_several_compresses() {
    let both = [config(GZIP), config(BROTLI)];
    check(&both, "gzip;q=0.5, br", &text(), Some("br")).await;
    check(&both, "gzip, br;q=0.5", &text(), Some("gzip")).await;
}

#[tokio::test]
async fn what_must_not_be_compressed_is_passed_on() {
    let only = |status, fields: &[(&'static str, &'static str)]| {
        let mut all = vec![("content-type", "text/plain")];
        all.extend(fields);
        answer(status, &all, &[TEXT])
    };
    for origin in [
        only(200, &[("content-length", "29")]),
        only(200, &[("cache-control", "public, No-Transform")]),
        only(206, &[]),
        answer(200, &[("content-type", "image/png")], &[TEXT]),
    ] {
        check(&[config(GZIP)], "gzip", &origin, None).await;
    }
    let encoded = only(200, &[("content-encoding", "br")]);
    assert_eq!(send(&[config(GZIP)], &[], "gzip", &encoded).await.body, TEXT);
    let codes = Config { uncompressible_response_codes: vec![404], ..config(GZIP) };
    check(std::slice::from_ref(&codes), "gzip", &only(404, &[]), None).await;
    check(&[codes], "gzip", &only(200, &[]), Some("gzip")).await;
}

#[tokio::test]
async fn a_response_without_a_body_only_gets_its_vary() {
    let exchange = send(&[config(GZIP)], &[], "gzip", &answer(200, &[("vary", "origin")], &[])).await;
    assert_eq!(exchange.head.headers.text("vary"), Some("origin, Accept-Encoding"));
    assert!(!exchange.head.headers.contains("content-encoding"));
}

/// The entity tag of a compressed response, or `None` if it was not compressed.
async fn check_etag(config: Config, etag: &'static str, expected: Option<Option<&str>>) {
    let exchange = send(&[config], &[], "gzip", &answer(200, &[("etag", etag)], &[TEXT])).await;
    let headers = &exchange.head.headers;
    assert_eq!(headers.contains("content-encoding").then(|| headers.text("etag")), expected);
}

#[tokio::test]
async fn a_strong_etag_does_not_stay_on_other_bytes() {
    check_etag(config(GZIP), "\"abc\"", Some(None)).await;
    check_etag(config(GZIP), "W/\"abc\"", Some(Some("W/\"abc\""))).await;
    let weaken = Config { weaken_etag_on_compress: true, ..config(GZIP) };
    check_etag(weaken, "\"abc\"", Some(Some("W/\"abc\""))).await;
    check_etag(Config { disable_on_etag_header: true, ..config(GZIP) }, "W/\"abc\"", None).await;
}

#[tokio::test]
async fn each_chunk_can_be_read_when_it_arrives() {
    for library in [GZIP, BROTLI, ZSTD] {
        let mut encoder = Encoder::new(library).unwrap();
        let first = encoder.encode(b"event: 1\n\n", false);
        let mut text = [0; 10];
        match library {
            Library::Gzip { .. } => flate2::read::GzDecoder::new(&*first).read_exact(&mut text).unwrap(),
            Library::Brotli { .. } => brotli::Decompressor::new(&*first, 4096).read_exact(&mut text).unwrap(),
            Library::Zstd { .. } => {
                zstd::stream::read::Decoder::new(&*first).unwrap().read_exact(&mut text).unwrap();
            }
        }
        assert_eq!(&text, b"event: 1\n\n");
        assert!(encoder.encode(b"", false).is_empty());
        assert!(!encoder.encode(b"", true).is_empty());
        assert!(encoder.encode(b"", true).is_empty(), "closed once");
    }
}

#[tokio::test]
async fn a_route_switches_compression_off_or_on() {
    let exchange = send(&[config(GZIP)], &[Override::Disabled], "gzip", &text()).await;
    assert!(!exchange.head.headers.contains("content-encoding"));
    let mut off = config(GZIP);
    off.response.enabled = false.into();
    let on = Override::Overrides { enable_response: true, remove_accept_encoding_header: None, library: Some(ZSTD) };
    let exchange = send(&[off], &[on], "gzip, zstd;q=0.9", &text()).await;
    assert_eq!(exchange.head.headers.text("content-encoding"), Some("zstd"));
}

#[tokio::test]
async fn the_origin_is_not_asked_to_compress_when_we_do() {
    let remove = Config { remove_accept_encoding_header: true, ..config(GZIP) };
    let exchange = send(&[remove], &[], "gzip", &text()).await;
    assert!(!exchange.upstream.unwrap().0.headers.contains("accept-encoding"));
    assert_eq!(exchange.head.headers.text("content-encoding"), Some("gzip"));
}

#[tokio::test]
async fn a_request_is_compressed_where_that_is_asked_for() {
    let direction = config(GZIP).response;
    let filters = [
        filter("compressor", HttpFilterConfig::Compressor(Config { request: Some(direction), ..config(GZIP) })),
        filter("router", HttpFilterConfig::Router(router::Config::default())),
    ];
    let mut head = RequestHead::new(Method::Post, "h", "/");
    head.headers.append("content-type", b"text/plain");
    let exchange = Proxy::new(&filters).exchange(head, &[TEXT, "end"], &answer(200, &[], &[])).await;
    let (head, body) = exchange.upstream.unwrap();
    assert_eq!(head.headers.text("content-encoding"), Some("gzip"));
    assert_eq!(decoded(Some("gzip"), &body), format!("{TEXT}end"));
}

/// The two blocks of this filter have no order.
fn sorted(counted: &str) -> String {
    let mut parts: Vec<&str> = counted.split(", ").collect();
    parts.sort_unstable();
    parts.join(", ")
}

#[tokio::test]
async fn what_is_compressed_and_why_not_is_counted() {
    let counted = async |config: Config, accepts: &str, origin: &Origin| {
        let counted = send(&[config], &[], accepts, origin).await.counted;
        sorted(&counted.replace("compressor.text.gzip.response.", ""))
    };
    let used = counted(config(GZIP), "gzip", &text()).await;
    let length = |prefix: &str| used.split(", ").find_map(|part| part.strip_prefix(prefix)?.parse::<usize>().ok());
    assert_eq!(length("total_uncompressed_bytes: "), Some(146));
    assert!(length("total_compressed_bytes: ").is_some_and(|bytes| bytes < 146), "{used}");
    assert!(used.contains("compressed: 1") && used.contains("header_compressor_used: 1"), "{used}");
    let passed = |why: &str| sorted(&format!("not_compressed: 1, {why}: 1"));
    assert_eq!(counted(config(GZIP), "", &text()).await, passed("no_accept_header"));
    assert_eq!(counted(config(GZIP), "identity", &text()).await, passed("header_identity"));
    assert_eq!(counted(config(GZIP), "br", &text()).await, passed("header_not_valid"));
    let short = answer(200, &[("content-length", "2")], &["ab"]);
    assert_eq!(counted(config(GZIP), "gzip", &short).await, passed("content_length_too_small"));
    let tagged = Config { disable_on_etag_header: true, ..config(GZIP) };
    let etag = answer(200, &[("etag", "x")], &[TEXT]);
    assert_eq!(counted(tagged, "gzip", &etag).await, passed("not_compressed_etag"));
}
