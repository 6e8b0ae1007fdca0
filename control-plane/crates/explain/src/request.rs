//! The request that is asked about, from the words of the question.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub(crate) method: String,
    pub(crate) tls: bool,
    /// Lower case, without port.
    pub host: String,
    /// As a client sends it: with the port when the URL has one.
    pub(crate) authority: String,
    pub port: u16,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    /// Lower-case names.
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    /// `GET https://host/path?query`, the method may be left out; headers as `name: value`.
    pub fn parse(text: &str, headers: &[String]) -> Result<Request, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (method, url) = match words[..] {
            [url] => ("GET", url),
            [method, url] => (method, url),
            _ => return Err(format!("`{text}` is not a request: write 'GET https://host/path'")),
        };
        if !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            return Err(format!("`{method}` is not a method: methods are upper case"));
        }
        let (tls, rest) = match url.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(format!("`{url}` is not a URL: it begins with http:// or https://")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let (host, port) = host_port(authority, if tls { 443 } else { 80 })?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        let mut request = Request {
            method: method.to_owned(),
            tls,
            host,
            authority: authority.to_owned(),
            port,
            path: path.to_owned(),
            query,
            headers: Vec::new(),
        };
        for header in headers {
            let (name, value) =
                header.split_once(':').ok_or_else(|| format!("`{header}` is not a header: write `name: value`"))?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            if name == "host" {
                (request.host, _) = host_port(value, request.port)?;
                request.authority = value.to_owned();
            } else {
                request.headers.push((name, value.to_owned()));
            }
        }
        Ok(request)
    }

    /// A header's values joined, or what a pseudo-header holds.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        match name.to_ascii_lowercase().as_str() {
            ":method" => Some(self.method.clone()),
            ":path" => Some(self.query.as_ref().map_or_else(|| self.path.clone(), |q| format!("{}?{q}", self.path))),
            ":authority" | "host" => Some(self.authority.clone()),
            ":scheme" => Some(if self.tls { "https" } else { "http" }.to_owned()),
            name => {
                let values: Vec<&str> =
                    self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
                (!values.is_empty()).then(|| values.join(","))
            }
        }
    }

    pub(crate) fn query_value(&self, name: &str) -> Option<&str> {
        let pairs = self.query.as_deref()?.split('&').map(|p| p.split_once('=').unwrap_or((p, "")));
        pairs.into_iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        let cookies = self.headers.iter().filter(|(n, _)| n == "cookie").flat_map(|(_, v)| v.split(';'));
        cookies.filter_map(|c| c.trim().split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v.trim_matches('"'))
    }
}

fn host_port(authority: &str, default: u16) -> Result<(String, u16), String> {
    let bad = || format!("`{authority}` is not a host");
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
        _ => (authority, default),
    };
    if host.is_empty() || host.contains('@') {
        return Err(bad());
    }
    Ok((host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, &str, u16, &str, Option<&str>), ()>) {
        let request = Request::parse(text, &[]);
        match (&request, expected) {
            (Ok(r), Ok(e)) => {
                assert_eq!((r.method.as_str(), r.host.as_str(), r.port, r.path.as_str(), r.query.as_deref()), e);
            }
            (Err(_), Err(())) => (),
            _ => panic!("{text}: {request:?}"),
        }
    }

    #[test]
    fn a_request_is_a_method_and_a_url() {
        check("GET https://Shop.example.com/a?b=c#d", Ok(("GET", "shop.example.com", 443, "/a", Some("b=c"))));
        check("http://h:8080", Ok(("GET", "h", 8080, "/", None)));
        check("POST http://[::1]:81/x", Ok(("POST", "[::1]", 81, "/x", None)));
        check("http://[::1]/x", Ok(("GET", "[::1]", 80, "/x", None)));
        check("http://h?x", Ok(("GET", "h", 80, "/", Some("x"))));
        check("/path", Err(()));
        check("get http://h/", Err(()));
        check("GET http://h/ HTTP/1.1", Err(()));
        check("http://:80/", Err(()));
        check("http://h:99999/", Err(()));
    }

    #[test]
    fn headers_are_found_in_any_case_and_host_replaces_the_authority() {
        let headers =
            ["X-A: 1".to_owned(), "x-a: 2".to_owned(), "Host: Other".to_owned(), "Cookie: a=1; b=2".to_owned()];
        let request = Request::parse("GET http://h/?q=1&q=2", &headers).unwrap();
        assert_eq!(request.header("x-A").as_deref(), Some("1,2"));
        assert_eq!(
            (request.host.as_str(), request.cookie("b"), request.query_value("q")),
            ("other", Some("2"), Some("1"))
        );
        assert!(Request::parse("http://h", &["novalue".to_owned()]).is_err());
    }
}
