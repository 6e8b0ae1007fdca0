//! Encoders: plain bytes in, compressed bytes out, each chunk readable as soon as it arrives.

use std::io::Write;

use bytes::Bytes;
use shared_config::http_filter::compressor::{BrotliMode, Library};

pub(super) enum Encoder {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Done,
}

impl Encoder {
    /// `None` when the library cannot make one, for want of memory.
    pub(super) fn new(library: Library) -> Option<Self> {
        Some(match library {
            Library::Gzip { level } => {
                Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level)))
            }
            Library::Brotli { quality, mode, window_bits, input_block_bits, disable_literal_context_modeling } => {
                use brotli::enc::backward_references::BrotliEncoderMode;
                let params = brotli::enc::BrotliEncoderParams {
                    quality: quality as i32,
                    lgwin: window_bits as i32,
                    lgblock: input_block_bits as i32,
                    mode: match mode {
                        BrotliMode::Generic => BrotliEncoderMode::BROTLI_MODE_GENERIC,
                        BrotliMode::Text => BrotliEncoderMode::BROTLI_MODE_TEXT,
                        BrotliMode::Font => BrotliEncoderMode::BROTLI_MODE_FONT,
                    },
                    disable_literal_context_modeling: disable_literal_context_modeling.into(),
                    ..Default::default()
                };
                Self::Brotli(Box::new(brotli::CompressorWriter::with_params(Vec::new(), 4096, &params)))
            }
            Library::Zstd { level, checksum } => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).ok()?;
                encoder.include_checksum(checksum).ok()?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Compresses a chunk. What comes out can be decoded up to the last byte that went in, so a slow stream is not
    /// held back; `end` closes the encoding.
    pub(super) fn encode(&mut self, chunk: &[u8], end: bool) -> Bytes {
        if chunk.is_empty() && !end {
            return Bytes::new();
        }
        // Writing to memory cannot fail.
        let write = |writer: &mut dyn Write| {
            drop(writer.write_all(chunk).and_then(|()| if end { Ok(()) } else { writer.flush() }))
        };
        let output = match self {
            Self::Gzip(encoder) => {
                write(encoder);
                std::mem::take(encoder.get_mut())
            }
            Self::Brotli(encoder) => {
                write(&mut **encoder);
                std::mem::take(encoder.get_mut())
            }
            Self::Zstd(encoder) => {
                write(encoder);
                std::mem::take(encoder.get_mut())
            }
            Self::Done => return Bytes::new(),
        };
        if !end {
            return output.into();
        }
        let rest = match std::mem::replace(self, Self::Done) {
            Self::Gzip(encoder) => encoder.finish().unwrap_or_default(),
            Self::Brotli(encoder) => encoder.into_inner(),
            Self::Zstd(encoder) => encoder.finish().unwrap_or_default(),
            Self::Done => Vec::new(),
        };
        if output.is_empty() { rest.into() } else { [output, rest].concat().into() }
    }
}
