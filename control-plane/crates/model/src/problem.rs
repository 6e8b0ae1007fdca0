//! What is wrong with a configuration, and where. Never decides whether something is wrong.

use std::fmt;

/// Where something was written. Line and column count from 1; 0 = not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.is_empty(), self.line) {
            (true, 0) => write!(f, "<input>"),
            (true, line) => write!(f, "<input>:{line}:{}", self.column),
            (false, 0) => write!(f, "{}", self.file),
            (false, line) => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

/// The stable numbers of problems. Never renumber, never reuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The text is not YAML.
    Syntax,
    /// A key the language does not have.
    UnknownKey,
    /// A value of the wrong shape: a list where a text is expected, a required key that is missing.
    Shape,
    /// A value that cannot be read: `5x` for a duration.
    Value,
    /// Part of the language, and not implemented by this version.
    NotYet,
    /// A name that is not defined.
    Undefined,
    /// Something defined twice.
    Duplicate,
    /// Parts that contradict each other.
    Conflict,
    /// A file or variable a secret-bearing field refers to was not given.
    Attachment,
    /// The proxy's own decoder refuses the translated resource.
    Refused,
    /// Accepted, and probably not meant.
    Suspicious,
}

impl Code {
    pub const ALL: [Code; 11] = [
        Code::Syntax,
        Code::UnknownKey,
        Code::Shape,
        Code::Value,
        Code::NotYet,
        Code::Undefined,
        Code::Duplicate,
        Code::Conflict,
        Code::Attachment,
        Code::Refused,
        Code::Suspicious,
    ];

    pub fn number(self) -> &'static str {
        match self {
            Code::Syntax => "W0001",
            Code::UnknownKey => "W0002",
            Code::Shape => "W0003",
            Code::Value => "W0004",
            Code::NotYet => "W0005",
            Code::Undefined => "W0101",
            Code::Duplicate => "W0102",
            Code::Conflict => "W0103",
            Code::Attachment => "W0104",
            Code::Refused => "W0201",
            Code::Suspicious => "W0301",
        }
    }

    /// For `weir explain CODE`.
    pub fn explanation(self) -> &'static str {
        match self {
            Code::Syntax => "The file is not valid YAML (or JSON). The place is where the parser gave up.",
            Code::UnknownKey => "The configuration language has no such key here. Keys are never ignored.",
            Code::Shape => {
                "The value has the wrong shape: a text, a list or a map is expected, or a required key is missing."
            }
            Code::Value => {
                "The value cannot be read. Durations: 250ms 5s 1h; sizes: 64KiB 1MiB; rates: 60/min; percents: 50%."
            }
            Code::NotYet => {
                "The key belongs to the language, but this version does not implement it, so it is refused, not ignored."
            }
            Code::Undefined => {
                "The name refers to a listener, cluster or policy that the configuration does not define."
            }
            Code::Duplicate => "The same thing is defined twice. Names are unique within their section.",
            Code::Conflict => "Two parts of the configuration contradict each other.",
            Code::Attachment => {
                "A field refers to a file or to ${VARIABLE} whose content was not sent. `weir apply` sends it along."
            }
            Code::Refused => "The proxy's own decoder refuses the Envoy resource this object is translated to.",
            Code::Suspicious => "Accepted, but probably not what was meant. `--strict` makes it an error.",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number())
    }
}

/// One thing that is wrong (or, in a list of warnings, suspicious).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// Where in the configuration: `clusters.app.balance`.
    pub field: String,
    pub code: Code,
    pub message: String,
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{} [{}]", self.message, self.code)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Collects everything that is wrong, so that one run reports it all.
#[derive(Debug, Default)]
pub struct Problems {
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl Problems {
    pub fn push(&mut self, place: &Place, field: impl Into<String>, code: Code, message: impl Into<String>) {
        self.errors.push(Problem {
            place: place.clone(),
            field: field.into(),
            code,
            message: message.into(),
            hint: None,
        });
    }

    pub fn warn(&mut self, place: &Place, field: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Problem {
            place: place.clone(),
            field: field.into(),
            code: Code::Suspicious,
            message: message.into(),
            hint: None,
        });
    }

    /// Gives the newest error a hint.
    pub fn hint(&mut self, hint: impl Into<String>) {
        if let Some(problem) = self.errors.last_mut() {
            problem.hint = Some(hint.into());
        }
    }
}

/// Longer words are not misspelt: comparing them takes time and memory by the product of both lengths.
const LONGEST: usize = 256;

/// The candidate closest to a misspelt word, if any is close.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .filter(|c| c.len().max(word.len()) <= LONGEST)
        .map(|c| (strsim::damerau_levenshtein(word, c), c))
        .filter(|(distance, c)| *distance <= 1 + c.len().min(word.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// The end of a message about a name that is not there: `: did you mean `app`?`, or nothing.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, candidates).map(|near| format!(": did you mean `{near}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_its_neighbour_and_a_strange_one_does_not() {
        assert_eq!(closest("logn", ["login", "plans"]), Some("login"));
        assert_eq!(closest("listners", ["listeners", "clusters"]), Some("listeners"));
        assert_eq!(closest("zebra", ["login", "plans"]), None);
        let (long, longer) = ("x".repeat(LONGEST), "x".repeat(1 << 24));
        assert_eq!(closest(&long, [&*longer, &*long]), Some(&*long));
        assert_eq!(closest(&longer, [&*longer, &*long]), None);
    }

    #[test]
    fn numbers_of_codes_are_unique() {
        let mut numbers: Vec<_> = Code::ALL.iter().map(|c| c.number()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), Code::ALL.len());
    }
}
