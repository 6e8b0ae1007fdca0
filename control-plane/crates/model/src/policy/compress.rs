//! `compress`: response bodies, by what the client accepts.

use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Keys, Reader};

#[derive(Debug, Clone, PartialEq)]
pub struct Compress {
    /// Most wanted first.
    pub algorithms: Vec<Algorithm>,
    pub min_size: Option<u32>,
    /// Content types; empty = the proxy's list of texts.
    pub types: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    Brotli,
    Zstd,
    Gzip,
}

const ALGORITHMS: &[(&str, Algorithm)] =
    &[("br", Algorithm::Brotli), ("brotli", Algorithm::Brotli), ("zstd", Algorithm::Zstd), ("gzip", Algorithm::Gzip)];

pub(crate) fn compress(r: &mut Reader<'_>, node: &Node) -> Option<Compress> {
    const KEYS: Keys = Keys { known: &["algorithms", "min_size", "types"], not_yet: &["level", "request"] };
    let default = || vec![Algorithm::Brotli, Algorithm::Zstd, Algorithm::Gzip];
    match &node.value {
        Value::Scalar { text, .. } if text == "true" => {
            Some(Compress { algorithms: default(), min_size: None, types: Vec::new() })
        }
        Value::Scalar { text, .. } if text == "false" => None,
        Value::Map(_) => {
            let fields = r.fields(node, KEYS)?;
            Some(Compress {
                algorithms: r.field(&fields, "algorithms", algorithms).unwrap_or_else(default),
                min_size: r.field(&fields, "min_size", |r, n| {
                    let size = r.size(n)?;
                    u32::try_from(size).ok().filter(|s| *s >= 30).or_else(|| {
                        r.wrong(n, Code::Value, "must be from 30B to 4GiB");
                        None
                    })
                }),
                types: r.field(&fields, "types", |r, n| Some(r.each(n, Reader::word))).unwrap_or_default(),
            })
        }
        _ => Some(Compress { algorithms: algorithms(r, node)?, min_size: None, types: Vec::new() }),
    }
}

fn algorithms(r: &mut Reader<'_>, node: &Node) -> Option<Vec<Algorithm>> {
    let mut found: Vec<Algorithm> = Vec::new();
    for algorithm in r.each(node, |r, n| r.choice(n, ALGORITHMS)) {
        if !found.contains(&algorithm) {
            found.push(algorithm);
        }
    }
    (!found.is_empty()).then_some(found)
}
