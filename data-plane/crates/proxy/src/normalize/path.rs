//! Path normalisation: what two paths that mean the same resource have in common (RFC 3986 §6.2.2, Envoy
//! `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`).
//!
//! Pure: text in, text out. The query is never touched.

use std::borrow::Cow;
use std::fmt::Write;

/// What to do with `%2F`, `%2f`, `%5C` and `%5c` (Envoy `PathWithEscapedSlashesAction`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EscapedSlashes {
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

/// The outcome of a step that may change a path or refuse it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Slashes<'p> {
    Kept(Cow<'p, str>),
    /// Unescaped; the client should be sent there with a 307.
    Redirect(String),
    Rejected,
}

/// Removes dot segments (also those with parameters, `..;a=b`), decodes escapes of unreserved characters, escapes what no
/// URI may hold, turns `\` into `/`. `None`: the path does not start with `/` or holds an escaped zero byte.
pub(crate) fn normalize(path: &str) -> Option<Cow<'_, str>> {
    let (path_only, rest) = split(path);
    if !path_only.starts_with('/') || path_only.contains("%00") {
        return None;
    }
    if !needs_work(path_only.as_bytes()) {
        return Some(Cow::Borrowed(path));
    }
    let decoded = recode(path_only);
    let mut out = remove_dot_segments(&decoded);
    out.push_str(rest);
    Some(Cow::Owned(out))
}

/// Makes each run of slashes one.
pub(crate) fn merge_slashes(path: &str) -> Cow<'_, str> {
    let (path_only, rest) = split(path);
    if !path_only.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    for c in path_only.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Applies the policy for escaped slashes.
pub(crate) fn escaped_slashes(path: &str, action: EscapedSlashes) -> Slashes<'_> {
    let (path_only, rest) = split(path);
    if action == EscapedSlashes::Keep || !has_escaped_slash(path_only.as_bytes()) {
        return Slashes::Kept(Cow::Borrowed(path));
    }
    if action == EscapedSlashes::Reject {
        return Slashes::Rejected;
    }
    let mut out = String::with_capacity(path.len());
    let mut left = path_only;
    while let Some(at) = left.find('%') {
        out.push_str(&left[..at]);
        let escape = left.get(at..at + 3).unwrap_or_default();
        let (text, used) = match escape.to_ascii_lowercase().as_str() {
            "%2f" => ("/", 3),
            "%5c" => ("\\", 3),
            _ => ("%", 1),
        };
        out.push_str(text);
        left = &left[at + used..];
    }
    out.push_str(left);
    out.push_str(rest);
    if action == EscapedSlashes::UnescapeAndRedirect { Slashes::Redirect(out) } else { Slashes::Kept(Cow::Owned(out)) }
}

/// The path, and the query or fragment behind it.
fn split(path: &str) -> (&str, &str) {
    path.split_at(path.find(['?', '#']).unwrap_or(path.len()))
}

/// Cheap test that spares most paths the work: no escape, no dot segment, nothing to escape.
fn needs_work(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        if byte == b'%' || byte == b'\\' || (byte == b'.' && previous == b'/') || is_foreign(byte) {
            return true;
        }
        previous = byte;
    }
    false
}

/// Printable, but in no URI (RFC 3986 §2): some servers take it, and then it means its escape.
fn is_foreign(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// Escapes of unreserved characters decoded, foreign characters escaped, `\` as `/`.
fn recode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    // Where a `%` stands that begins no escape.
    let mut strays = Vec::new();
    let mut left = path;
    while let Some(at) = left.find(|c: char| c == '%' || c == '\\' || u8::try_from(c).is_ok_and(is_foreign)) {
        out.push_str(&left[..at]);
        let escaped = left.get(at + 1..at + 3).filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let escaped = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let used = match (left.as_bytes()[at], escaped) {
            (b'\\', _) => {
                out.push('/');
                1
            }
            (b'%', Some(byte)) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(byte as char);
                3
            }
            (b'%', Some(_)) => {
                out.push_str(&left[at..at + 3]);
                3
            }
            (b'%', None) => {
                strays.push(out.len());
                out.push('%');
                1
            }
            (foreign, _) => {
                let _ = write!(out, "%{foreign:02X}");
                1
            }
        };
        left = &left[at + used..];
    }
    out.push_str(left);
    // What was decoded must not make an escape of a `%` before it: the next reader would decode `%2%65` once more.
    for at in strays.into_iter().rev() {
        if out.as_bytes()[at + 1..].iter().take(2).filter(|byte| byte.is_ascii_hexdigit()).count() == 2 {
            out.insert_str(at + 1, "25");
        }
    }
    out
}

/// RFC 3986 §5.2.4. Servlet containers look at a segment without its parameters, so that `..;a=b` is `..` to them.
fn remove_dot_segments(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in path.split('/').skip(1) {
        ends_open = false;
        match segment.split(';').next() {
            Some(".") => ends_open = true,
            Some("..") => {
                segments.pop();
                ends_open = true;
            }
            _ => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if ends_open || out.is_empty() {
        out.push('/');
    }
    out
}

fn has_escaped_slash(path: &[u8]) -> bool {
    path.windows(3)
        .any(|w| w[0] == b'%' && ((w[1] == b'2' && w[2] | 0x20 == b'f') || (w[1] == b'5' && w[2] | 0x20 == b'c')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, normal: Option<&str>) {
        assert_eq!(normalize(path).as_deref(), normal, "{path}");
    }

    #[test]
    fn dot_segments_escapes_and_backslashes_are_normalised() {
        check("/a/b", Some("/a/b"));
        check("/a/./b/../c", Some("/a/c"));
        check("/a/%2e%2E/b", Some("/b"));
        check("/../../etc", Some("/etc"));
        check("/a/..", Some("/"));
        check("/a/b/.", Some("/a/b/"));
        check("/%41%7e%2F", Some("/A~%2F"));
        check("/a\\..\\b", Some("/b"));
        check("/a?x=/../b", Some("/a?x=/../b"));
        check("/..?q", Some("/?q"));
        check("/a//b", Some("/a//b"));
        check("/%zz%2", Some("/%zz%2"));
        check("/.hidden/a.b", Some("/.hidden/a.b"));
        check("/a\"<>^`{|}?\"", Some("/a%22%3C%3E%5E%60%7B%7C%7D?\""));
        check("a", None);
        check("/a%00b", None);
        check("*", None);
    }

    #[test]
    fn dot_segments_are_found_behind_their_parameters() {
        check("/a/..;/b", Some("/b"));
        check("/a/..;x=y/b", Some("/b"));
        check("/a/.;/..;;/b/..;?q", Some("/?q"));
        check("/a/%2e%2E;/b", Some("/b"));
        check("/a;x/b;..", Some("/a;x/b;.."));
        check("/a/...;/;../b", Some("/a/...;/;../b"));
    }

    #[test]
    fn decoding_once_makes_nothing_that_can_be_decoded_again() {
        check("/a/%2%65%2%65/b", Some("/a/%252e%252e/b"));
        check("/%%32%65%%32e", Some("/%252e%252e"));
        check("/%%%32%35", Some("/%%2525"));
        check("/%252e%252e/b", Some("/%252e%252e/b"));
        check("/%+1/%%2e", Some("/%+1/%."));
    }

    #[test]
    fn slashes_are_merged_in_the_path_only() {
        assert_eq!(merge_slashes("//a///b?c=//d"), "/a/b?c=//d");
        assert_eq!(merge_slashes("/a/b"), "/a/b");
    }

    #[test]
    fn escaped_slashes_follow_the_policy() {
        let kept = |path| Slashes::Kept(Cow::Borrowed(path));
        assert_eq!(escaped_slashes("/a%2Fb", EscapedSlashes::Keep), kept("/a%2Fb"));
        assert_eq!(escaped_slashes("/a%2fb", EscapedSlashes::Reject), Slashes::Rejected);
        assert_eq!(escaped_slashes("/a%41?x=%2f", EscapedSlashes::Reject), kept("/a%41?x=%2f"));
        assert_eq!(
            escaped_slashes("/a%2Fb%5cc?q", EscapedSlashes::UnescapeAndForward),
            Slashes::Kept(Cow::Owned("/a/b\\c?q".into()))
        );
        assert_eq!(escaped_slashes("/a%2F", EscapedSlashes::UnescapeAndRedirect), Slashes::Redirect("/a/".into()));
    }
}
