//! The query of an admin request.

use percent_encoding::percent_decode_str;

/// Names and values, decoded, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pair = |item: &str| {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            (decode(name), decode(value))
        };
        Self(text.split('&').filter(|item| !item.is_empty()).map(pair).collect())
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Whether the name is there, with any value but `false`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != "false")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_decoded() {
        let query = Query::parse("usedonly&filter=%5Ea.b%24&format=a+b&&x=false&y=%FF");
        assert_eq!(query.value("filter"), Some("^a.b$"));
        assert_eq!(query.value("format"), Some("a b"));
        assert_eq!((query.has("usedonly"), query.has("x"), query.has("z")), (true, false, false));
        assert_eq!(query.value("y"), Some("\u{FFFD}"));
    }
}
