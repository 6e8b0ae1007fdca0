//! `envoy.extensions.filters.http.compressor.v3`: compression of responses, and of requests where asked for.

use proto::envoy::config::core::v3::TypedExtensionConfig;
use proto::envoy::extensions::compression as libraries;
use proto::envoy::extensions::filters::http::compressor::v3 as pb;

use super::Decode;
use crate::core::{self, RuntimeFlag};
use crate::invalid::Problems;
use crate::matcher::StringMatcher;
use crate::refuse_set;

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub library: Library,
    /// As the operator calls the library; a part of the names of statistics.
    pub library_name: String,
    /// The response has statistics of its own, because it is configured by a message of its own.
    pub response_stats: bool,
    /// Requests are compressed too, for origins that take it.
    pub request: Option<Direction>,
    pub response: Direction,
    pub disable_on_etag_header: bool,
    /// Make a strong entity tag weak instead of removing it.
    pub weaken_etag_on_compress: bool,
    /// So that the origin does not compress.
    pub remove_accept_encoding_header: bool,
    pub uncompressible_response_codes: Vec<u16>,
    /// Take this encoding when the client likes several equally.
    pub choose_first: bool,
}

/// What is compressed of one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Direction {
    pub enabled: RuntimeFlag,
    pub min_content_length: u64,
    pub content_types: Vec<StringMatcher>,
}

/// An encoding and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Library {
    Gzip {
        /// 1 to 9.
        level: u32,
    },
    Brotli {
        quality: u32,
        mode: BrotliMode,
        window_bits: u32,
        input_block_bits: u32,
        disable_literal_context_modeling: bool,
    },
    Zstd {
        level: i32,
        checksum: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BrotliMode {
    Generic,
    Text,
    Font,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    Disabled,
    Overrides {
        /// Compress responses here, even where the chain does not.
        enable_response: bool,
        remove_accept_encoding_header: Option<bool>,
        library: Option<Library>,
    },
}

/// The content types that are compressed when none are configured.
const CONTENT_TYPES: &[&str] = &[
    "application/javascript",
    "application/json",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/css",
    "text/html",
    "text/plain",
    "text/xml",
];

impl Library {
    /// The name of the encoding in `content-encoding`.
    pub fn encoding(self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli { .. } => "br",
            Self::Zstd { .. } => "zstd",
        }
    }

    /// The name of the encoding in statistics.
    pub fn stat_name(self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli { .. } => "brotli",
            Self::Zstd { .. } => "zstd",
        }
    }
}

// === decode ===

impl Decode for Config {
    type Proto = pb::Compressor;

    fn decode(proto: &pb::Compressor, p: &mut Problems) -> Option<Self> {
        let before = p.count();
        let library = match &proto.compressor_library {
            Some(extension) => p.at("compressor_library", |p| decode_library(extension, p)),
            None => p.refuse_at("compressor_library", "required"),
        };
        let request = proto.request_direction_config.as_ref().and_then(|request| {
            p.at("request_direction_config.common_config", |p| {
                decode_direction(&request.common_config.clone().unwrap_or_default(), p)
            })
        });
        // The deprecated fields on top configure the response unless its own message is there.
        let (common, response) = match &proto.response_direction_config {
            Some(response) => {
                if *proto != without_deprecated(proto) {
                    p.refuse("the deprecated fields have no effect beside response_direction_config");
                }
                (response.common_config.clone().unwrap_or_default(), response.clone())
            }
            None => (
                pb::compressor::CommonDirectionConfig {
                    enabled: proto.runtime_enabled.clone(),
                    min_content_length: proto.content_length,
                    content_type: proto.content_type.clone(),
                    content_type_matcher: Vec::new(),
                },
                pb::compressor::ResponseDirectionConfig {
                    disable_on_etag_header: proto.disable_on_etag_header,
                    remove_accept_encoding_header: proto.remove_accept_encoding_header,
                    ..Default::default()
                },
            ),
        };
        let (direction, codes) =
            p.at("response_direction_config", |p| {
                refuse_set!(p, response; status_header_enabled);
                if response.disable_on_etag_header && response.weaken_etag_on_compress {
                    p.at("weaken_etag_on_compress", |p| p.refuse("contradicts disable_on_etag_header"));
                }
                let codes =
                    p.each("uncompressible_response_codes", &response.uncompressible_response_codes, |p, code| {
                        match code {
                            200..600 => Some(*code as u16),
                            _ => {
                                p.refuse(format!("{code} is not in 200 to 599"));
                                None
                            }
                        }
                    });
                (p.at("common_config", |p| decode_direction(&common, p)), codes)
            });
        (p.count() == before).then_some(())?;
        Some(Self {
            library: library?,
            library_name: proto.compressor_library.as_ref().map(|library| library.name.clone()).unwrap_or_default(),
            response_stats: proto.response_direction_config.is_some(),
            request,
            response: direction?,
            disable_on_etag_header: response.disable_on_etag_header,
            weaken_etag_on_compress: response.weaken_etag_on_compress,
            remove_accept_encoding_header: response.remove_accept_encoding_header,
            uncompressible_response_codes: codes,
            choose_first: proto.choose_first,
        })
    }
}

fn without_deprecated(proto: &pb::Compressor) -> pb::Compressor {
    pb::Compressor {
        compressor_library: proto.compressor_library.clone(),
        request_direction_config: proto.request_direction_config.clone(),
        response_direction_config: proto.response_direction_config.clone(),
        choose_first: proto.choose_first,
        ..Default::default()
    }
}

fn decode_direction(proto: &pb::compressor::CommonDirectionConfig, p: &mut Problems) -> Option<Direction> {
    let before = p.count();
    let enabled = proto.enabled.as_ref().map_or(RuntimeFlag::from(true), |flag| RuntimeFlag {
        default: flag.default_value.unwrap_or(true),
        key: flag.runtime_key.clone(),
    });
    let mut content_types: Vec<_> = proto.content_type.iter().map(|text| StringMatcher::exact(text.as_str())).collect();
    content_types
        .extend(p.each("content_type_matcher", &proto.content_type_matcher, |p, m| StringMatcher::decode(m, p)));
    if proto.content_type.is_empty() && proto.content_type_matcher.is_empty() {
        content_types = CONTENT_TYPES.iter().map(|text| StringMatcher::exact(*text)).collect();
    }
    let min_content_length = proto.min_content_length.unwrap_or(30).into();
    (p.count() == before).then_some(Direction { enabled, min_content_length, content_types })
}

fn decode_library(proto: &TypedExtensionConfig, p: &mut Problems) -> Option<Library> {
    use libraries::brotli::compressor::v3::Brotli;
    use libraries::gzip::compressor::v3::Gzip;
    use libraries::zstd::compressor::v3::Zstd;
    let Some(any) = &proto.typed_config else { return p.refuse_at("typed_config", "required") };
    p.at("typed_config", |p| {
        let any = core::extension(any, p)?;
        if any.is::<Gzip>() {
            decode_gzip(&core::unpack(&any, p)?, p)
        } else if any.is::<Brotli>() {
            decode_brotli(&core::unpack(&any, p)?, p)
        } else if any.is::<Zstd>() {
            decode_zstd(&core::unpack(&any, p)?, p)
        } else {
            p.refuse(format!("no compression library of type {:?} in weir-proxy", any.type_name()));
            None
        }
    })
}

fn in_range(
    value: Option<u32>,
    default: u32,
    range: std::ops::RangeInclusive<u32>,
    name: &str,
    p: &mut Problems,
) -> Option<u32> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        return Some(value);
    }
    p.refuse_at(name, format!("{value} is not in {} to {}", range.start(), range.end()))
}

fn decode_gzip(proto: &libraries::gzip::compressor::v3::Gzip, p: &mut Problems) -> Option<Library> {
    // These trade memory and ratio in zlib; every decoder reads the result either way. Our encoder has fixed ones.
    in_range(proto.memory_level, 5, 1..=9, "memory_level", p)?;
    in_range(proto.window_bits, 12, 9..=15, "window_bits", p)?;
    in_range(proto.chunk_size, 4096, 4096..=65536, "chunk_size", p)?;
    if proto.memory_level.is_some() || proto.window_bits.is_some() || proto.compression_strategy != 0 {
        p.warn("", "memory_level, window_bits and compression_strategy are fixed in weir-proxy");
    }
    let level = match proto.compression_level {
        0 => 6,
        level @ 1..=9 => level as u32,
        level => return p.refuse_at("compression_level", format!("unknown value {level}")),
    };
    Some(Library::Gzip { level })
}

fn decode_brotli(proto: &libraries::brotli::compressor::v3::Brotli, p: &mut Problems) -> Option<Library> {
    in_range(proto.chunk_size, 4096, 4096..=65536, "chunk_size", p)?;
    let mode = match proto.encoder_mode {
        0 | 1 => BrotliMode::Generic,
        2 => BrotliMode::Text,
        3 => BrotliMode::Font,
        mode => return p.refuse_at("encoder_mode", format!("unknown value {mode}")),
    };
    Some(Library::Brotli {
        quality: in_range(proto.quality, 3, 0..=11, "quality", p)?,
        mode,
        window_bits: in_range(proto.window_bits, 18, 10..=24, "window_bits", p)?,
        input_block_bits: in_range(proto.input_block_bits, 24, 16..=24, "input_block_bits", p)?,
        disable_literal_context_modeling: proto.disable_literal_context_modeling,
    })
}

fn decode_zstd(proto: &libraries::zstd::compressor::v3::Zstd, p: &mut Problems) -> Option<Library> {
    refuse_set!(p, proto; strategy);
    p.unimplemented_if("dictionary", proto.dictionary.is_some());
    in_range(proto.chunk_size, 4096, 4096..=65536, "chunk_size", p)?;
    let level = in_range(proto.compression_level, 3, 0..=22, "compression_level", p)?;
    if proto.strategy != 0 || proto.dictionary.is_some() {
        return None;
    }
    Some(Library::Zstd { level: level as i32, checksum: proto.enable_checksum })
}

impl Decode for Override {
    type Proto = pb::CompressorPerRoute;

    fn decode(proto: &pb::CompressorPerRoute, p: &mut Problems) -> Option<Self> {
        use pb::compressor_per_route::Override as Choice;
        match &proto.r#override {
            Some(Choice::Disabled(true)) => Some(Self::Disabled),
            Some(Choice::Disabled(false)) => p.refuse_at("disabled", "must be true"),
            Some(Choice::Overrides(overrides)) => p.at("overrides", |p| {
                let response = overrides.response_direction_config.as_ref();
                let library = match &overrides.compressor_library {
                    Some(library) => Some(p.at("compressor_library", |p| decode_library(library, p))?),
                    None => None,
                };
                Some(Self::Overrides {
                    enable_response: response.is_some(),
                    remove_accept_encoding_header: response.and_then(|r| r.remove_accept_encoding_header),
                    library,
                })
            }),
            None => p.refuse_at("override", "required"),
        }
    }
}
