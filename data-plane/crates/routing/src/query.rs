//! Query parameters and cookies of a request. Nothing is percent-decoded, as in Envoy's routing.

use dp_http::{Headers, name};

/// The first value of a query parameter; empty for a parameter without `=`.
pub fn query_parameter<'a>(query: &'a str, parameter: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| *name == parameter)
        .map(|(_, value)| value)
}

/// The first value of a cookie, without the quotes around it.
pub fn cookie<'a>(headers: &'a Headers, cookie: &str) -> Option<&'a [u8]> {
    headers
        .all(&name::COOKIE)
        .flat_map(|value| value.split(|b| *b == b';'))
        .filter_map(|pair| {
            let equals = pair.iter().position(|b| *b == b'=')?;
            Some((pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii_end()))
        })
        .find(|(name, _)| *name == cookie.as_bytes())
        .map(|(_, value)| match value {
            [b'"', inner @ .., b'"'] => inner,
            value => value,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        let check = |query, expected| assert_eq!(query_parameter(query, "a"), expected, "{query}");
        check("a=1&a=2", Some("1"));
        check("b=1&a", Some(""));
        check("b=a&c=%61", None);
        check("&&a=b=c", Some("b=c"));
        check("", None);
    }

    #[test]
    fn cookies_are_found_in_all_cookie_headers() {
        let headers: Headers = [("cookie", "x=1; y=\"2\" ;z"), ("cookie", "a=b=c")].into_iter().collect();
        let check = |name, expected: Option<&str>| assert_eq!(cookie(&headers, name), expected.map(str::as_bytes));
        check("x", Some("1"));
        check("y", Some("2"));
        check("z", None);
        check("a", Some("b=c"));
    }
}
