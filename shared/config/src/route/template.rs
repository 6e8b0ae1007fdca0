//! URI templates for matching and rewriting paths: `/users/{id}/**`, `/{country=*}/{rest=**}`.
//!
//! `*` is one segment, `**` the rest of the path, `{name}` is `{name=*}`. At most five variables.

use regex::bytes;

/// What a literal may hold, as the inside of a class: `pchar` of RFC 3986 without `*` and `=`.
const LITERAL: &str = r"a-zA-Z0-9\-._~%!$&'()+,;:@";
const MAX_VARIABLES: usize = 5;
const MAX_NAME: usize = 16;

/// A checked template to match paths with.
#[derive(Debug, Clone)]
pub struct PathTemplate {
    text: String,
    regex: bytes::Regex,
    variables: Vec<String>,
}

/// A checked template to make a path of what a [`PathTemplate`] captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRewrite {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(String),
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("must start with `/` and hold visible characters only")]
    Start,
    #[error("{0:?} may not stand in a template")]
    Literal(String),
    #[error("{0:?} is not the name of a variable: a letter, then up to 15 letters, digits or `_`")]
    Name(String),
    #[error("a variable lacks its closing bracket")]
    Bracket,
    #[error("the pattern of variable {0:?} is empty or ends with `/`")]
    VariablePattern(String),
    #[error("variable {0:?} is there twice")]
    Twice(String),
    #[error("has more than {MAX_VARIABLES} variables")]
    TooMany,
    #[error("no `*`, `**` or variable without a pattern may follow `**`")]
    AfterRest,
    #[error("text after `*`, `**` or a variable must be the end of the template")]
    Suffix,
    #[error("variable {0:?} is not in the template that matches the path")]
    Unknown(String),
    #[error("must not be empty")]
    Empty,
}

// === impl PathTemplate ===

impl PartialEq for PathTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl PathTemplate {
    /// # Errors
    /// What is wrong with the template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut rest = text.strip_prefix('/').ok_or(TemplateError::Start)?;
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TemplateError::Start);
        }
        let mut parser = Parser { regex: String::from(r"\A/"), ..Parser::default() };
        while !rest.is_empty() {
            rest = parser.segment(rest)?;
            if rest.is_empty() {
                break;
            }
            if let Some(more) = rest.strip_prefix('/') {
                parser.regex.push('/');
                rest = more;
            } else if rest.contains('/') {
                return Err(TemplateError::Suffix);
            } else {
                parser.literal(rest)?;
                break;
            }
        }
        parser.regex.push_str(r"\z");
        // The parts were checked, so that only an overlong template can fail here.
        let regex = bytes::Regex::new(&parser.regex).map_err(|_| TemplateError::Literal(text.to_owned()))?;
        Ok(Self { text: text.to_owned(), regex, variables: parser.variables })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the first operator or variable: every path that matches starts with it.
    pub fn literal_prefix(&self) -> &str {
        &self.text[..self.text.find(['*', '{']).unwrap_or(self.text.len())]
    }

    /// Whether the path, without its query, matches.
    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path.as_bytes())
    }

    /// The path that `rewrite` makes of this path; `None` when it does not match.
    pub fn rewrite(&self, rewrite: &TemplateRewrite, path: &str) -> Option<String> {
        let captures = self.regex.captures(path.as_bytes())?;
        let mut out = String::new();
        for piece in &rewrite.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Variable(name) => out.push_str(std::str::from_utf8(captures.name(name)?.as_bytes()).ok()?),
            }
        }
        Some(out)
    }
}

#[derive(Default)]
struct Parser {
    regex: String,
    variables: Vec<String>,
    seen_rest: bool,
}

impl Parser {
    /// Takes one segment and answers what follows it.
    fn segment<'t>(&mut self, text: &'t str) -> Result<&'t str, TemplateError> {
        if text.starts_with('*') {
            return self.operator(text);
        }
        if let Some(rest) = text.strip_prefix('{') {
            let (variable, rest) = rest.split_once('}').ok_or(TemplateError::Bracket)?;
            self.variable(variable)?;
            return Ok(rest);
        }
        let end = text.find('/').unwrap_or(text.len());
        self.literal(&text[..end])?;
        Ok(&text[end..])
    }

    fn operator<'t>(&mut self, text: &'t str) -> Result<&'t str, TemplateError> {
        if self.seen_rest {
            return Err(TemplateError::AfterRest);
        }
        if let Some(rest) = text.strip_prefix("**") {
            self.seen_rest = true;
            self.regex.push_str(&format!("[{LITERAL}*=/]*"));
            return Ok(rest);
        }
        self.regex.push_str(&format!("[{LITERAL}*=]+"));
        Ok(&text[1..])
    }

    fn literal(&mut self, text: &str) -> Result<(), TemplateError> {
        let is_literal = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@".contains(&b);
        if text.is_empty() || !text.bytes().all(is_literal) {
            return Err(TemplateError::Literal(text.to_owned()));
        }
        self.regex.push_str(&regex::escape(text));
        Ok(())
    }

    fn variable(&mut self, text: &str) -> Result<(), TemplateError> {
        let (name, pattern) = text.split_once('=').map_or((text, None), |(name, pattern)| (name, Some(pattern)));
        check_name(name)?;
        if self.variables.iter().any(|other| other == name) {
            return Err(TemplateError::Twice(name.to_owned()));
        }
        if self.variables.len() == MAX_VARIABLES {
            return Err(TemplateError::TooMany);
        }
        self.variables.push(name.to_owned());
        self.regex.push_str(&format!("(?P<{name}>"));
        let mut rest = pattern.unwrap_or("*");
        let invalid = || TemplateError::VariablePattern(name.to_owned());
        if rest.is_empty() || rest.ends_with('/') {
            return Err(invalid());
        }
        while !rest.is_empty() {
            rest = if rest.starts_with('*') {
                self.operator(rest)?
            } else {
                let end = rest.find('/').unwrap_or(rest.len());
                self.literal(&rest[..end])?;
                &rest[end..]
            };
            if !rest.is_empty() {
                rest = rest.strip_prefix('/').ok_or_else(invalid)?;
                self.regex.push('/');
            }
        }
        self.regex.push(')');
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), TemplateError> {
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= MAX_NAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_name { Ok(()) } else { Err(TemplateError::Name(name.to_owned())) }
}

// === impl TemplateRewrite ===

impl TemplateRewrite {
    /// # Errors
    /// What is wrong with the template, also with respect to the one that matches.
    pub fn parse(text: &str, matched: &PathTemplate) -> Result<Self, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        if !text.starts_with(['/', '{']) {
            return Err(TemplateError::Start);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find('{').unwrap_or(rest.len());
            let (literal, after) = rest.split_at(end);
            let is_literal = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@/".contains(&b);
            if !literal.bytes().all(is_literal) {
                return Err(TemplateError::Literal(literal.to_owned()));
            }
            if !literal.is_empty() {
                pieces.push(Piece::Text(literal.to_owned()));
            }
            let Some(after) = after.strip_prefix('{') else { break };
            let (name, after) = after.split_once('}').ok_or(TemplateError::Bracket)?;
            check_name(name)?;
            if !matched.variables.iter().any(|other| other == name) {
                return Err(TemplateError::Unknown(name.to_owned()));
            }
            pieces.push(Piece::Variable(name.to_owned()));
            rest = after;
        }
        Ok(Self { pieces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, path: &str, expected: bool) {
        assert_eq!(PathTemplate::parse(template).unwrap().matches(path), expected, "{template} {path}");
    }

    fn refused(template: &str, expected: TemplateError) {
        assert_eq!(PathTemplate::parse(template).unwrap_err(), expected, "{template}");
    }

    #[test]
    fn operators_match_one_segment_or_the_rest() {
        check("/foo/*", "/foo/bar", true);
        check("/foo/*", "/foo/", false);
        check("/foo/*", "/foo/bar/baz", false);
        check("/foo/**", "/foo/", true);
        check("/foo/**", "/foo/a/b/c", true);
        check("/foo/**", "/foo", false);
        check("/*/bar", "/x/bar", true);
        check("/media/{file=*}.m4s", "/media/a.m4s", true);
        check("/media/{file=*}.m4s", "/media/axm4s", false);
        check("/{a=x/*}/end", "/x/y/end", true);
        check("/foo/*", "/foo/*", true);
        check("/foo/{x}", "/foo/**", true);
        check("/foo/**", "/foo/*/x", true);
        check("/foo/", "/foo/", true);
        check("/foo/", "/foo", false);
        check("/", "/", true);
    }

    #[test]
    fn wrong_templates_are_refused() {
        refused("foo", TemplateError::Start);
        refused("/**/x/*", TemplateError::AfterRest);
        refused("/{a}/{a}", TemplateError::Twice("a".into()));
        refused("/{a}/{b}/{c}/{d}/{e}/{f}", TemplateError::TooMany);
        refused("/{1a}", TemplateError::Name("1a".into()));
        refused("/{a", TemplateError::Bracket);
        refused("/{a=}", TemplateError::VariablePattern("a".into()));
        refused("/*x/y", TemplateError::Suffix);
        refused("/a=b", TemplateError::Literal("a=b".into()));
        refused("//a", TemplateError::Literal(String::new()));
    }

    #[test]
    fn a_rewrite_puts_captured_variables_in_their_places() {
        let template = PathTemplate::parse("/{country}/{rest=**}").unwrap();
        let rewrite = TemplateRewrite::parse("/v2/{rest}/of-{country}", &template).unwrap();
        assert_eq!(template.rewrite(&rewrite, "/fr/a/b").unwrap(), "/v2/a/b/of-fr");
        assert_eq!(template.rewrite(&rewrite, "/"), None);
        assert_eq!(TemplateRewrite::parse("/{x}", &template), Err(TemplateError::Unknown("x".into())));
    }
}
