//! Cookies: finding one in a request, writing `set-cookie` as Envoy does. Nothing is decoded.

use std::fmt::Write;

use crate::{Headers, name};

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

/// The value of a `set-cookie` field; `seconds` 0 lasts as long as the browser.
pub fn set_cookie(cookie: &str, value: &str, seconds: u64, path: &str, attributes: &[(String, String)]) -> String {
    let mut text = format!("{cookie}=\"{value}\"");
    if seconds > 0 {
        // Writing to a String cannot fail.
        let _ = write!(text, "; Max-Age={seconds}");
    }
    if !path.is_empty() {
        text.push_str("; Path=");
        text.push_str(path);
    }
    for (name, value) in attributes {
        text.push_str("; ");
        text.push_str(name);
        if !value.is_empty() {
            text.push('=');
            text.push_str(value);
        }
    }
    text.push_str("; HttpOnly");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
