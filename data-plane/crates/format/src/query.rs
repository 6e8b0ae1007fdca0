//! Parameters of a query string.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The first value of a parameter; its name and its value are decoded, as Envoy decodes them for `%QUERY_PARAM%`, rate
/// limits and matchers. What is no UTF-8 stays as it stands.
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    let pair = |part: &'q str| part.split_once('=').unwrap_or((part, ""));
    let (_, value) = query.split('&').map(pair).find(|(key, _)| decoded(key) == name)?;
    Some(decoded(value))
}

/// Percent escapes replaced.
pub fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8().unwrap_or(Cow::Borrowed(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_and_decoded() {
        assert_eq!(parameter("a=1&b%20c=d%2fe&a=2", "a").as_deref(), Some("1"));
        assert_eq!(parameter("a=1&b%20c=d%2fe", "b c").as_deref(), Some("d/e"));
        assert_eq!(parameter("a&b=%zz%4", "b").as_deref(), Some("%zz%4"));
        assert_eq!(parameter("a", "a").as_deref(), Some(""));
        assert_eq!(parameter("", "a"), None);
    }
}
