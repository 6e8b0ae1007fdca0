//! The request body on its way up: what was read from the client, what is kept for another try, where this try is.
//!
//! Knows no filters and no deadlines; `relay.rs` moves the pieces.

use bytes::Bytes;
use dp_http::Headers;

/// The body of one request. Pieces are kept only while another try may need them.
#[derive(Debug, Default)]
pub(crate) struct RequestBody {
    /// The last byte, or the trailers, came in.
    pub(crate) complete: bool,
    pub(crate) trailers: Option<Headers>,
    kept: Vec<Bytes>,
    kept_size: usize,
    /// How many bytes may be kept; once over it, no further try can be made.
    limit: usize,
    overflowed: bool,
    /// The next of the kept pieces that this try has to send.
    next: usize,
    /// This try has sent the end of the request.
    pub(crate) sent: bool,
    /// What a filter held and gave back.
    back: Option<Bytes>,
    /// Some of the body was read.
    began: bool,
}

/// What a try sends next.
#[derive(Debug)]
pub(crate) enum Next {
    Piece {
        data: Bytes,
        last: bool,
    },
    End,
    /// The client has to send more first.
    Read,
    /// Everything was sent.
    Nothing,
}

impl RequestBody {
    pub(crate) fn new(complete: bool) -> Self {
        Self { complete, ..Self::default() }
    }

    /// Keeps up to `limit` bytes from now on, so that the request can be sent again.
    pub(crate) fn keep(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether everything read so far is still here.
    pub(crate) fn can_replay(&self) -> bool {
        !self.overflowed
    }

    /// Whether it was to be kept, and was too large for that.
    pub(crate) fn was_given_up(&self) -> bool {
        self.overflowed && self.limit > 0
    }

    /// Stops keeping: no further try will be made.
    pub(crate) fn forget(&mut self) {
        self.limit = 0;
    }

    /// Whether the request has no body.
    pub(crate) fn is_empty(&self) -> bool {
        self.complete && self.trailers.is_none() && self.kept.is_empty() && self.back.is_none() && !self.began
    }

    /// A filter held the whole body and gives it back, to be sent.
    pub(crate) fn push_back(&mut self, body: Bytes) {
        self.began |= !body.is_empty();
        self.back = Some(body);
    }

    /// The body that a filter gave back.
    pub(crate) fn take_back(&mut self) -> Option<Bytes> {
        self.back.take()
    }

    /// The stream became a tunnel: what follows has no end yet.
    pub(crate) fn reopen(&mut self) {
        self.complete = false;
        self.sent = false;
        self.limit = 0;
    }

    /// Takes a piece that came from the client and passed the filters. `false`: it was not kept, the caller sends it.
    pub(crate) fn take(&mut self, data: &Bytes) -> bool {
        self.began = true;
        if self.overflowed || self.kept_size + data.len() > self.limit {
            // What this try has still to send stays; what it has sent is of no use without the rest.
            self.overflowed = true;
            if self.next >= self.kept.len() {
                self.kept.clear();
                self.kept_size = 0;
                self.next = 0;
                return false;
            }
        }
        self.kept_size += data.len();
        self.kept.push(data.clone());
        true
    }

    /// Starts over for another try.
    pub(crate) fn rewind(&mut self) {
        self.next = 0;
        self.sent = false;
    }

    /// What this try sends next.
    pub(crate) fn next(&mut self) -> Next {
        if self.sent {
            return Next::Nothing;
        }
        if let Some(data) = self.kept.get(self.next) {
            self.next += 1;
            let last = self.complete && self.back.is_none() && self.trailers.is_none() && self.next == self.kept.len();
            self.sent = last;
            return Next::Piece { data: data.clone(), last };
        }
        if self.complete && self.back.is_none() {
            self.sent = true;
            return Next::End;
        }
        Next::Read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(body: &mut RequestBody) -> Vec<(Bytes, bool)> {
        std::iter::from_fn(|| match body.next() {
            Next::Piece { data, last } => Some((data, last)),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn a_kept_body_is_sent_again_from_its_start() {
        let mut body = RequestBody::new(false);
        body.keep(10);
        assert!(body.take(&Bytes::from_static(b"ab")));
        assert_eq!(pieces(&mut body), [("ab".into(), false)]);
        assert!(matches!(body.next(), Next::Read));
        assert!(body.take(&Bytes::from_static(b"cd")));
        body.complete = true;
        assert_eq!(pieces(&mut body), [("cd".into(), true)]);
        assert!(matches!(body.next(), Next::Nothing));
        body.rewind();
        assert_eq!(pieces(&mut body), [("ab".into(), false), ("cd".into(), true)]);
    }

    #[test]
    fn a_body_over_the_limit_cannot_be_sent_again() {
        let mut body = RequestBody::new(false);
        body.keep(3);
        assert!(body.take(&Bytes::from_static(b"ab")));
        pieces(&mut body);
        assert!(!body.take(&Bytes::from_static(b"cd")));
        assert!(!body.can_replay());
    }

    #[test]
    fn pieces_not_yet_sent_are_not_lost_when_the_limit_is_passed() {
        let mut body = RequestBody::new(false);
        body.keep(3);
        assert!(body.take(&Bytes::from_static(b"ab")));
        assert!(body.take(&Bytes::from_static(b"cd")));
        body.complete = true;
        assert_eq!(pieces(&mut body), [("ab".into(), false), ("cd".into(), true)]);
        assert!(!body.can_replay());
    }
}
