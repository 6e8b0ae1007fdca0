//! Path normalisation: what two paths that mean the same resource have in common (RFC 3986 §6.2.2, Envoy
//! `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`).
//!
//! Pure: text in, text out. The query is never touched.

use std::borrow::Cow;

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

/// Removes dot segments, decodes escapes of unreserved characters, turns `\` into `/`. `None`: the path does not start
/// with `/` or holds an escaped zero byte.
pub(crate) fn normalize(path: &str) -> Option<Cow<'_, str>> {
    let (path_only, rest) = split(path);
    if !path_only.starts_with('/') || path_only.contains("%00") {
        return None;
    }
    if !needs_work(path_only.as_bytes()) {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path_only);
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

/// Cheap test that spares most paths the work: no escape, no backslash, no dot segment.
fn needs_work(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        if byte == b'%' || byte == b'\\' || (byte == b'.' && previous == b'/') {
            return true;
        }
        previous = byte;
    }
    false
}

fn decode_unreserved(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut left = path;
    while let Some(at) = left.find(['%', '\\']) {
        out.push_str(&left[..at]);
        if left.as_bytes()[at] == b'\\' {
            out.push('/');
            left = &left[at + 1..];
            continue;
        }
        let byte = left.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(b) if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => {
                out.push(b as char);
                left = &left[at + 3..];
            }
            _ => {
                out.push('%');
                left = &left[at + 1..];
            }
        }
    }
    out.push_str(left);
    out
}

/// RFC 3986 §5.2.4.
fn remove_dot_segments(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in path.split('/').skip(1) {
        ends_open = false;
        match segment {
            "." => ends_open = true,
            ".." => {
                segments.pop();
                ends_open = true;
            }
            other => segments.push(other),
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
        check("a", None);
        check("/a%00b", None);
        check("*", None);
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
