//! Which encoding a client gets: `accept-encoding` with its weights (RFC 9110 §12.5.3) against what the chain has.

use shared_config::http_filter::compressor::Config;
use shared_config::matcher::StringMatcher;

/// A compressor of the chain.
pub(super) struct Candidate {
    pub(super) encoding: &'static str,
    content_types: Vec<StringMatcher>,
    choose_first: bool,
}

impl Candidate {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            encoding: config.library.encoding(),
            content_types: config.response.content_types.clone(),
            choose_first: config.choose_first,
        }
    }

    fn takes(&self, content_type: &str) -> bool {
        content_type.is_empty() || self.content_types.iter().any(|known| known.matches(content_type.as_bytes()))
    }
}

/// What decided a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The encoding was named.
    Named,
    Identity,
    /// `*` stood for it.
    Star,
    /// Nothing that is acceptable was named.
    Nothing,
}

/// The encoding with the highest weight, the first named among equals; `None` for no compression.
pub(super) fn choose(accepts: &str, content_type: &str, candidates: &[Candidate]) -> (Why, Option<&'static str>) {
    let wanted = || accepts.split(',').filter_map(parse);
    // One filter an encoding: the first of those that take this type, unless the client refuses the encoding.
    let usable = |candidate: &&Candidate| {
        let is_refused = wanted().any(|(encoding, weight)| weight == 0.0 && encoding == candidate.encoding);
        candidate.takes(content_type) && !is_refused
    };
    let mut choice = ("identity", 0.0);
    for (encoding, weight) in wanted() {
        let candidate = candidates.iter().filter(usable).find(|candidate| candidate.encoding == encoding);
        if candidate.is_none() && encoding != "identity" && encoding != "*" {
            continue;
        }
        if weight > choice.1 || (weight == choice.1 && candidate.is_some_and(|candidate| candidate.choose_first)) {
            choice = (encoding, weight);
        }
    }
    match choice {
        (_, 0.0) => (Why::Nothing, None),
        ("identity", _) => (Why::Identity, None),
        ("*", _) => (Why::Star, candidates.iter().find(usable).map(|candidate| candidate.encoding)),
        (encoding, _) => {
            (Why::Named, candidates.iter().find(|candidate| candidate.encoding == encoding).map(|c| c.encoding))
        }
    }
}

/// An element and its weight; `None` when it is empty or the weight is no number.
fn parse(element: &str) -> Option<(&str, f32)> {
    let (encoding, parameter) = element.split_once(';').unwrap_or((element, ""));
    let encoding = encoding.trim();
    if encoding.is_empty() {
        return None;
    }
    match parameter.split_once('=') {
        Some((name, weight)) if name.trim().eq_ignore_ascii_case("q") => {
            let weight = weight.trim().parse().ok().filter(|weight| (0.0..=1.0).contains(weight))?;
            Some((encoding, weight))
        }
        _ => Some((encoding, 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(encoding: &'static str, types: &[&str], choose_first: bool) -> Candidate {
        let content_types = types.iter().map(|text| StringMatcher::exact(*text)).collect();
        Candidate { encoding, content_types, choose_first }
    }

    fn check(accepts: &str, expected: Option<&str>) {
        let candidates = [candidate("gzip", &["a/b"], false), candidate("br", &["a/b", "c/d"], false)];
        assert_eq!(choose(accepts, "a/b", &candidates).1, expected, "{accepts}");
    }

    #[test]
    fn the_highest_weight_wins_and_the_first_among_equals() {
        check("gzip, br", Some("gzip"));
        check("br, gzip", Some("br"));
        check("gzip;q=0.5, br;q=0.8", Some("br"));
        check("gzip ; Q=0.5,identity", None);
        check("deflate, gzip;q=0.1", Some("gzip"));
    }

    #[test]
    fn a_star_is_the_first_that_is_not_refused() {
        check("*", Some("gzip"));
        check("gzip;q=0, *", Some("br"));
        check("*;q=0", None);
        check("gzip;q=0.5, *;q=0.4", Some("gzip"));
    }

    #[test]
    fn nothing_is_chosen_from_nothing() {
        check("", None);
        check("gzip;q=0", None);
        check("gzip;q=x", None);
        check("gzip;q=NaN", None);
        check(",;q=1,", None);
    }

    #[test]
    fn a_compressor_that_does_not_take_the_type_is_not_in_the_choice() {
        let candidates = [candidate("gzip", &["a/b"], false), candidate("br", &["c/d"], false)];
        assert_eq!(choose("gzip, br;q=0.5", "c/d", &candidates).1, Some("br"));
    }

    #[test]
    fn choose_first_decides_between_equals() {
        let candidates = [candidate("gzip", &[], false), candidate("br", &[], true)];
        assert_eq!(choose("gzip, br", "", &candidates).1, Some("br"));
    }
}
