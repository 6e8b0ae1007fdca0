//! What has to be in an answer: byte sequences, in their order, with anything in between.

use bytes::Bytes;

/// Whether `answer` holds all of `wanted`, one after the other.
pub(super) fn matches(wanted: &[Bytes], mut answer: &[u8]) -> bool {
    wanted.iter().all(|piece| {
        let at = answer.windows(piece.len().max(1)).position(|window| window == &piece[..]);
        match at {
            Some(at) => {
                answer = &answer[at + piece.len()..];
                true
            }
            None => piece.is_empty(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wanted: &[&'static str], answer: &str, matched: bool) {
        let wanted: Vec<Bytes> = wanted.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
        assert_eq!(matches(&wanted, answer.as_bytes()), matched);
    }

    #[test]
    fn all_pieces_are_found_in_their_order() {
        check(&[], "", true);
        check(&["ab"], "ab", true);
        check(&["ab", "cd"], "xabxxcdx", true);
        check(&["cd", "ab"], "xabxxcdx", false);
        check(&["ab", "ab"], "aab", false);
        check(&["abc"], "ab", false);
    }
}
