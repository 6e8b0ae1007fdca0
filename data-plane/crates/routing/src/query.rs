//! Query parameters of a request. Nothing is percent-decoded, as in Envoy's routing.

/// The first value of a query parameter; empty for a parameter without `=`.
pub fn query_parameter<'a>(query: &'a str, parameter: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| *name == parameter)
        .map(|(_, value)| value)
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
}
