//! The rules of one field, and whether a value keeps them.
//!
//! Only what occurs in the Envoy API is implemented; a test holds the descriptor set against [`Rules::compile`].

use regex::Regex;

use super::compile::Kind;
use super::read;
use crate::validate::field_rules::Type;
use crate::validate::{FieldRules, KnownRegex, StringRules, string_rules};

/// A value on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value<'a> {
    /// A varint or the bits of a fixed-size number.
    Number(u64),
    Bytes(&'a [u8]),
}

#[derive(Default)]
pub(super) struct Rules {
    pub(super) required: bool,
    pub(super) min_items: usize,
    max_items: Option<usize>,
    pub(super) unique: bool,
    value: Check,
}

#[derive(Default)]
enum Check {
    #[default]
    None,
    Bool(bool),
    Integer(Range<i128>),
    Float(Range<f64>),
    /// In nanoseconds.
    Duration(Range<i128>),
    Enum {
        defined_only: bool,
        not_in: Vec<i32>,
    },
    String(Box<Text>),
    Bytes {
        min: u64,
        max: Option<u64>,
    },
}

#[derive(Clone, Copy)]
struct Range<T> {
    above: Option<T>,
    from: Option<T>,
    below: Option<T>,
    to: Option<T>,
    ignore_zero: bool,
}

#[derive(Default)]
struct Text {
    min_chars: u64,
    max_chars: Option<u64>,
    min_bytes: u64,
    max_bytes: Option<u64>,
    pattern: Option<Regex>,
    prefix: String,
    suffix: String,
    one_of: Vec<String>,
    known: Option<Known>,
    ignore_empty: bool,
}

#[derive(Clone, Copy)]
enum Known {
    HeaderName { strict: bool },
    HeaderValue { strict: bool },
}

// === compile ===

macro_rules! range {
    ($rules:expr, $as:ty) => {
        Range {
            above: $rules.gt.map(<$as>::from),
            from: $rules.gte.map(<$as>::from),
            below: $rules.lt.map(<$as>::from),
            to: $rules.lte.map(<$as>::from),
            ignore_zero: $rules.ignore_empty(),
        }
    };
}

impl Rules {
    /// The rules of a field; `None` when they demand nothing.
    pub(super) fn compile(proto: &FieldRules) -> Option<Self> {
        let mut rules =
            Self { required: proto.message.as_ref().is_some_and(|message| message.required()), ..Self::default() };
        match proto.r#type.as_ref() {
            Some(Type::Float(r)) => rules.value = Check::Float(range!(r, f64)),
            Some(Type::Double(r)) => rules.value = Check::Float(range!(r, f64)),
            Some(Type::Int32(r)) => rules.value = Check::Integer(range!(r, i128)),
            Some(Type::Int64(r)) => rules.value = Check::Integer(range!(r, i128)),
            Some(Type::Uint32(r)) => rules.value = Check::Integer(range!(r, i128)),
            Some(Type::Uint64(r)) => rules.value = Check::Integer(range!(r, i128)),
            Some(Type::Bool(r)) => rules.value = r.r#const.map_or(Check::None, Check::Bool),
            Some(Type::String(r)) => rules.value = Check::String(Box::new(text(r))),
            Some(Type::Bytes(r)) => rules.value = Check::Bytes { min: r.min_len(), max: r.max_len },
            Some(Type::Enum(r)) => {
                rules.value = Check::Enum { defined_only: r.defined_only(), not_in: r.not_in.clone() };
            }
            Some(Type::Duration(r)) => {
                rules.required |= r.required();
                let nanos = |d: &Option<prost_types::Duration>| d.as_ref().map(|d| nanos(d.seconds, d.nanos.into()));
                rules.value = Check::Duration(Range {
                    above: nanos(&r.gt),
                    from: nanos(&r.gte),
                    below: nanos(&r.lt),
                    to: nanos(&r.lte),
                    ignore_zero: false,
                });
            }
            Some(Type::Any(r)) => rules.required |= r.required(),
            Some(Type::Repeated(r)) => {
                rules.min_items = count(r.min_items());
                rules.max_items = r.max_items.map(count);
                rules.unique = r.unique();
            }
            Some(Type::Map(r)) => {
                rules.min_items = count(r.min_pairs());
                rules.max_items = r.max_pairs.map(count);
            }
            _ => {}
        }
        let demands = rules.required
            || rules.min_items > 0
            || rules.max_items.is_some()
            || rules.unique
            || !matches!(rules.value, Check::None);
        demands.then_some(rules)
    }
}

fn count(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn nanos(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

fn text(proto: &StringRules) -> Text {
    let strict = proto.strict();
    let known = match proto.well_known {
        Some(string_rules::WellKnown::WellKnownRegex(known)) => match KnownRegex::try_from(known) {
            Ok(KnownRegex::HttpHeaderName) => Some(Known::HeaderName { strict }),
            Ok(KnownRegex::HttpHeaderValue) => Some(Known::HeaderValue { strict }),
            _ => None,
        },
        _ => None,
    };
    Text {
        min_chars: proto.min_len(),
        max_chars: proto.max_len,
        min_bytes: proto.min_bytes(),
        max_bytes: proto.max_bytes,
        pattern: proto.pattern.as_ref().and_then(|pattern| Regex::new(pattern).ok()),
        prefix: proto.prefix().to_owned(),
        suffix: proto.suffix().to_owned(),
        one_of: proto.r#in.clone(),
        known,
        ignore_empty: proto.ignore_empty(),
    }
}

// === check ===

impl Rules {
    /// What is wrong with the number of values; one that is not repeated counts as one.
    pub(super) fn check_count(&self, count: usize) -> Option<String> {
        if self.required && count == 0 {
            return Some("is required".to_owned());
        }
        if count < self.min_items {
            return Some(format!("must have at least {} items", self.min_items).replace("1 items", "1 item"));
        }
        let max = self.max_items.filter(|max| count > *max)?;
        Some(format!("must have at most {max} items"))
    }

    /// What is wrong with a value.
    #[allow(clippy::cast_possible_truncation, reason = "an enum is 32 bits wide")]
    pub(super) fn check(&self, kind: &Kind, value: Value<'_>) -> Option<String> {
        let (kind, value) = match (kind, value) {
            (Kind::Wrapper(inner), Value::Bytes(bytes)) => (&**inner, unwrap(inner, bytes)),
            _ => (kind, value),
        };
        match (&self.value, value) {
            (Check::None, _) => None,
            (Check::Bool(wanted), Value::Number(n)) => ((n != 0) != *wanted).then(|| format!("must be {wanted}")),
            (Check::Integer(range), Value::Number(n)) => range.check(integer(kind, n), |n| n.to_string()),
            (Check::Float(range), Value::Number(n)) => range.check(float(kind, n), |n| n.to_string()),
            (Check::Duration(range), Value::Bytes(bytes)) => range.check(duration(bytes), |n| {
                #[allow(clippy::cast_precision_loss, reason = "for the eye")]
                let seconds = n as f64 / 1e9;
                format!("{seconds}s")
            }),
            (Check::Enum { defined_only, not_in }, Value::Number(n)) => {
                let number = n as i32;
                let known = matches!(kind, Kind::Enum(numbers) if numbers.contains(&number));
                if *defined_only && !known {
                    return Some(format!("unknown value {number}"));
                }
                not_in.contains(&number).then(|| format!("must not be {number}"))
            }
            (Check::String(text), Value::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                Ok(value) => text.check(value),
                Err(_) => Some("is not UTF-8".to_owned()),
            },
            (Check::Bytes { min, max }, Value::Bytes(bytes)) => length(bytes.len() as u64, *min, *max, "bytes"),
            _ => Some("has the wrong wire type".to_owned()),
        }
    }
}

/// The value in a wrapper message.
fn unwrap<'a>(inner: &Kind, mut bytes: &'a [u8]) -> Value<'a> {
    let mut value = inner.default();
    while let Some((number, read)) = read(&mut bytes) {
        if number == 1 {
            value = read;
        }
    }
    value
}

#[allow(clippy::cast_possible_truncation, reason = "the wire says so")]
fn integer(kind: &Kind, n: u64) -> i128 {
    match kind {
        Kind::Signed | Kind::Fixed64Signed => n.cast_signed().into(),
        Kind::ZigZag => ((n >> 1).cast_signed() ^ -(n & 1).cast_signed()).into(),
        Kind::Fixed32Signed => (n as u32).cast_signed().into(),
        _ => n.into(),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the wire says so")]
fn float(kind: &Kind, n: u64) -> f64 {
    match kind {
        Kind::Float => f32::from_bits(n as u32).into(),
        _ => f64::from_bits(n),
    }
}

fn duration(mut bytes: &[u8]) -> i128 {
    let (mut seconds, mut fraction) = (0, 0);
    while let Some((number, Value::Number(n))) = read(&mut bytes) {
        match number {
            1 => seconds = n.cast_signed(),
            2 => fraction = n.cast_signed(),
            _ => {}
        }
    }
    nanos(seconds, fraction)
}

impl<T: PartialOrd + Copy + Default> Range<T> {
    #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "a NaN is in no range")]
    fn check(&self, value: T, show: impl Fn(T) -> String) -> Option<String> {
        if self.ignore_zero && value == T::default() {
            return None;
        }
        if let Some(above) = self.above.filter(|above| !(value > *above)) {
            return Some(format!("must be above {}", show(above)));
        }
        if let Some(from) = self.from.filter(|from| !(value >= *from)) {
            return Some(format!("must be at least {}", show(from)));
        }
        if let Some(below) = self.below.filter(|below| !(value < *below)) {
            return Some(format!("must be below {}", show(below)));
        }
        let to = self.to.filter(|to| !(value <= *to))?;
        Some(format!("must be at most {}", show(to)))
    }
}

impl Text {
    fn check(&self, value: &str) -> Option<String> {
        if value.is_empty() && self.ignore_empty {
            return None;
        }
        if value.is_empty() && (self.min_chars > 0 || self.min_bytes > 0) {
            return Some("must not be empty".to_owned());
        }
        let chars = if self.min_chars > 1 || self.max_chars.is_some() { value.chars().count() as u64 } else { 1 };
        length(chars, self.min_chars, self.max_chars, "characters")
            .or_else(|| length(value.len() as u64, self.min_bytes, self.max_bytes, "bytes"))
            .or_else(|| self.check_content(value))
    }

    fn check_content(&self, value: &str) -> Option<String> {
        if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(value)) {
            return Some(format!("must match {pattern}"));
        }
        if !value.starts_with(&self.prefix) {
            return Some(format!("must begin with {:?}", self.prefix));
        }
        if !value.ends_with(&self.suffix) {
            return Some(format!("must end with {:?}", self.suffix));
        }
        if !self.one_of.is_empty() && !self.one_of.iter().any(|one| one == value) {
            return Some(format!("must be one of {}", self.one_of.join(", ")));
        }
        self.known.and_then(|known| known.check(value))
    }
}

impl Known {
    fn check(self, value: &str) -> Option<String> {
        let loose = |c: char| !matches!(c, '\0' | '\r' | '\n');
        let (sound, what) = match self {
            Self::HeaderName { strict: true } => {
                let name = value.strip_prefix(':').unwrap_or(value);
                let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&b);
                (!name.is_empty() && name.bytes().all(is_token), "header name")
            }
            // As PGV has it: the loose pattern takes an empty name, and `min_len` asks for one where it is needed.
            Self::HeaderName { strict: false } => (value.chars().all(loose), "header name"),
            Self::HeaderValue { strict: true } => {
                (value.bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f)), "header value")
            }
            Self::HeaderValue { strict: false } => (value.chars().all(loose), "header value"),
        };
        (!sound).then(|| format!("{value:?} is not a {what}"))
    }
}

fn length(actual: u64, min: u64, max: Option<u64>, what: &str) -> Option<String> {
    if actual < min {
        return Some(format!("must have at least {min} {what}"));
    }
    let max = max.filter(|max| actual > *max)?;
    Some(format!("must have at most {max} {what}"))
}
