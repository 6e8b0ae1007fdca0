//! Regular expressions with RE2's meaning: classes are ASCII, matching takes linear time.
//!
//! Never backtracks; what RE2 and this engine do not have (look-around, back-references) is refused.

use proto::envoy::r#type::matcher::v3 as matcher;
use regex::bytes;

use crate::invalid::Problems;

/// A checked regular expression. Two are equal when their texts are.
#[derive(Debug, Clone)]
pub struct Regex {
    text: String,
    search: bytes::Regex,
    /// The same, but the whole text must match.
    full: bytes::Regex,
}

/// Search and replace (`RegexMatchAndSubstitute`).
#[derive(Debug, Clone, PartialEq)]
pub struct Substitution {
    regex: Regex,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(Vec<u8>),
    Group(usize),
}

// === impl Regex ===

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Regex {
    /// # Errors
    /// The text is no regular expression, or too large a one.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        // What is longer than a megabyte compiles to more than the engine allows, but slowly.
        if text.len() > 1 << 20 {
            return Err(regex::Error::CompiledTooBig(1 << 20));
        }
        let search = compile(text)?;
        Ok(Self { text: text.to_owned(), search, full: compile(&format!(r"\A(?:{text})\z"))? })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether all of `value` matches.
    pub fn is_full_match(&self, value: &[u8]) -> bool {
        self.full.is_match(value)
    }

    pub fn decode(proto: &matcher::RegexMatcher, p: &mut Problems) -> Option<Self> {
        use matcher::regex_matcher::EngineType;
        if let Some(EngineType::GoogleRe2(engine)) = &proto.engine_type
            && engine.max_program_size.is_some()
        {
            p.warn("google_re2.max_program_size", "is deprecated; this engine has its own limit");
        }
        if proto.regex.is_empty() {
            return p.refuse_at("regex", "must not be empty");
        }
        match Self::new(&proto.regex) {
            Ok(regex) => Some(regex),
            Err(error) => p.refuse_at("regex", one_line(&error)),
        }
    }
}

/// The ASCII form first, which is what RE2 does with `\d`, `\w` and `\b`; the Unicode form for what needs it.
fn compile(text: &str) -> Result<bytes::Regex, regex::Error> {
    bytes::RegexBuilder::new(text).unicode(false).build().or_else(|_| bytes::Regex::new(text))
}

fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let reason = text.lines().last().unwrap_or_default();
    format!("is not a regular expression: {}", reason.trim_start_matches("error: ").trim())
}

// === impl Substitution ===

impl Substitution {
    /// Replaces every match in `value`.
    pub fn replace(&self, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(value.len() + 16);
        let mut last = 0;
        for captures in self.regex.search.captures_iter(value) {
            // Group 0 is the match itself and always there.
            let Some(whole) = captures.get(0) else { continue };
            out.extend_from_slice(&value[last..whole.start()]);
            for piece in &self.pieces {
                match piece {
                    Piece::Text(text) => out.extend_from_slice(text),
                    Piece::Group(n) => out.extend_from_slice(captures.get(*n).map_or(&b""[..], |m| m.as_bytes())),
                }
            }
            last = whole.end();
        }
        out.extend_from_slice(&value[last..]);
        out
    }

    /// Like [`Self::replace`] for text. A replacement that cuts a character in two leaves the text as it was.
    pub fn replace_text(&self, value: &str) -> String {
        String::from_utf8(self.replace(value.as_bytes())).unwrap_or_else(|_| value.to_owned())
    }

    /// # Errors
    /// What is wrong with the substitution.
    pub fn new(regex: Regex, substitution: &str) -> Result<Self, String> {
        let groups = regex.search.captures_len() - 1;
        let mut pieces = Vec::new();
        let mut text = Vec::new();
        let mut bytes = substitution.bytes();
        while let Some(byte) = bytes.next() {
            if byte != b'\\' {
                text.push(byte);
                continue;
            }
            match bytes.next() {
                Some(b'\\') => text.push(b'\\'),
                Some(digit @ b'0'..=b'9') => {
                    let group = usize::from(digit - b'0');
                    if group > groups {
                        return Err(format!("\\{group} names a group, but the expression has {groups}"));
                    }
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Group(group));
                }
                _ => return Err("a backslash must be followed by a digit or a backslash".into()),
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self { regex, pieces })
    }

    pub fn decode(proto: &matcher::RegexMatchAndSubstitute, p: &mut Problems) -> Option<Self> {
        let Some(pattern) = &proto.pattern else {
            return p.refuse_at("pattern", "is required");
        };
        let regex = p.at("pattern", |p| Regex::decode(pattern, p))?;
        if proto.substitution.contains(['\n', '\r']) {
            return p.refuse_at("substitution", "must not hold a line break");
        }
        match Self::new(regex, &proto.substitution) {
            Ok(substitution) => Some(substitution),
            Err(reason) => p.refuse_at("substitution", reason),
        }
    }
}
