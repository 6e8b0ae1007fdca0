//! Frames of a peer that cost more than they bring: when there are too many of them (CVE-2019-9511 to 9518).
//!
//! Looks at the heads of frames as they pass on their way to the codec. The rules for single kinds of frames are
//! Envoy's (`protocol_constraints.cc`); the one for all of them is nginx's.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// What a peer may send, with Envoy's defaults.
#[derive(Debug, Clone, Copy)]
pub struct FrameLimits {
    /// HEADERS, CONTINUATION and DATA in a row without a payload that do not end their stream
    /// (Envoy's `max_consecutive_inbound_frames_with_empty_payload`).
    pub empty: u32,
    /// PRIORITY for each stream (Envoy's `max_inbound_priority_frames_per_stream`).
    pub priority: u32,
    /// WINDOW_UPDATE for each DATA that we sent (Envoy's `max_inbound_window_update_frames_per_data_frame_sent`).
    pub window_updates: u32,
}

/// Bytes of frames that bring nothing, for each byte of heads and bodies both ways; how many of these are given, and
/// for how long.
const IDLE_SHARE: u64 = 8;
const IDLE_BYTES: u64 = 128 << 10;
const IDLE_TIME: Duration = Duration::from_secs(60);

const PREFACE: usize = 24;
const HEAD: usize = 9;
/// The largest payload of a DATA frame that every client takes.
const DATA: u64 = 16_384;

/// What one peer sent so far; its connection and its streams share it.
#[derive(Debug)]
pub(super) struct Watch {
    limits: FrameLimits,
    counts: Cell<Counts>,
    /// The peer opens the streams, and sends the preface.
    is_client: bool,
    since: Cell<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    streams: u64,
    last_stream: u32,
    empty: u32,
    priority: u64,
    window_updates: u64,
    data_sent: u64,
    /// Of all frames that came.
    bytes: u64,
    /// Of heads and bodies, both ways.
    payload: u64,
    flood: Option<&'static str>,
}

/// Finds the heads of frames in the bytes that come.
#[derive(Debug)]
pub(super) struct Heads {
    watch: Rc<Watch>,
    /// Bytes to come before the next head.
    skip: usize,
    /// The part of a head that has come.
    head: [u8; HEAD],
    have: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { empty: 1, priority: 100, window_updates: 10 }
    }
}

// === impl Watch ===

impl Watch {
    pub(super) fn of_client(limits: FrameLimits) -> Rc<Self> {
        Rc::new(Self { limits, counts: Cell::default(), is_client: true, since: Instant::now().into() })
    }

    pub(super) fn of_server(limits: FrameLimits) -> Rc<Self> {
        Rc::new(Self { limits, counts: Cell::default(), is_client: false, since: Instant::now().into() })
    }

    /// What there was too much of.
    pub(super) fn flood(&self) -> Option<&'static str> {
        self.counts.get().flood
    }

    /// We opened a stream.
    pub(super) fn opened(&self) {
        let mut counts = self.counts.get();
        counts.streams += 1;
        self.counts.set(counts);
    }

    /// We sent so much of a body.
    pub(super) fn sent(&self, bytes: usize) {
        let mut counts = self.counts.get();
        counts.data_sent += (bytes as u64).div_ceil(DATA);
        counts.payload += bytes as u64;
        self.counts.set(counts);
    }

    /// The clock is read only when there are too many of these frames for the time.
    fn idle_flood(&self, counts: &mut Counts) -> Option<&'static str> {
        if counts.bytes / IDLE_SHARE <= counts.payload + IDLE_BYTES {
            return None;
        }
        let now = Instant::now();
        if now - self.since.replace(now) < IDLE_TIME {
            return Some("inbound_idle_frames_flood");
        }
        (counts.bytes, counts.payload) = (0, 0);
        None
    }

    /// The head of a frame came; how long its payload is.
    fn note(&self, head: [u8; HEAD]) -> usize {
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut counts = self.counts.get();
        counts.bytes += HEAD as u64 + u64::from(length);
        match kind {
            // DATA, HEADERS, CONTINUATION
            0 | 1 | 9 => {
                let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
                if self.is_client && kind == 1 && stream > counts.last_stream {
                    counts.last_stream = stream;
                    counts.streams += 1;
                }
                counts.payload += u64::from(length);
                let ends_stream = kind != 9 && flags & 1 != 0;
                counts.empty = if length == 0 && !ends_stream { counts.empty.saturating_add(1) } else { 0 };
            }
            2 => counts.priority += 1,
            8 => counts.window_updates += 1,
            _ => {}
        }
        if counts.flood.is_none() {
            counts.flood = self.limits.exceeded(&counts).or_else(|| self.idle_flood(&mut counts));
        }
        self.counts.set(counts);
        length as usize
    }
}

impl FrameLimits {
    fn exceeded(&self, counts: &Counts) -> Option<&'static str> {
        let priority = u64::from(self.priority).saturating_mul(1 + counts.streams);
        let updates = u64::from(self.window_updates).saturating_mul(counts.data_sent).saturating_add(counts.streams);
        if counts.empty > self.empty {
            Some("inbound_empty_frames_flood")
        } else if counts.priority > priority {
            Some("inbound_priority_frames_flood")
        } else if counts.window_updates > updates.saturating_mul(2).saturating_add(5) {
            Some("inbound_window_update_frames_flood")
        } else {
            None
        }
    }
}

// === impl Heads ===

impl Heads {
    pub(super) fn new(watch: Rc<Watch>) -> Self {
        let skip = if watch.is_client { PREFACE } else { 0 };
        Self { watch, skip, head: [0; HEAD], have: 0 }
    }

    /// Whether nothing more is to be read; who drives the connection looks next, and ends it.
    pub(super) fn are_a_flood(&self) -> bool {
        self.watch.flood().is_some()
    }

    pub(super) fn look(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let part = (HEAD - self.have).min(bytes.len());
            if part == 0 {
                return;
            }
            self.head[self.have..self.have + part].copy_from_slice(&bytes[..part]);
            self.have += part;
            bytes = &bytes[part..];
            if self.have == HEAD {
                self.have = 0;
                self.skip = self.watch.note(self.head);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> Vec<u8> {
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.resize(HEAD + length as usize, 0);
        frame
    }

    /// The flood that the `count`-th of frames after a stream's HEADERS is, and not the one before; read in pieces.
    fn check(frame_of: Vec<u8>, count: usize, wanted: &'static str) {
        for piece in [1, 5, 9, 1000] {
            let watch = Watch::of_client(FrameLimits::default());
            let mut heads = Heads::new(Rc::clone(&watch));
            let mut feed = |bytes: &[u8]| bytes.chunks(piece).for_each(|piece| heads.look(piece));
            feed(&[0; PREFACE]);
            feed(&frame(1, 4, 1, 20));
            (1..count).for_each(|_| feed(&frame_of));
            assert_eq!(watch.flood(), None, "{wanted}, {count}, by {piece}");
            feed(&frame_of);
            assert_eq!(watch.flood(), Some(wanted), "{count}, by {piece}");
        }
    }

    #[test]
    fn too_many_frames_of_one_kind_are_a_flood() {
        check(frame(0, 0, 1, 0), 2, "inbound_empty_frames_flood");
        check(frame(9, 0, 1, 0), 2, "inbound_empty_frames_flood");
        check(frame(2, 0, 3, 5), 201, "inbound_priority_frames_flood");
        check(frame(8, 0, 1, 4), 8, "inbound_window_update_frames_flood");
        // After the 29 bytes of HEADERS, 20 of which are payload.
        let idle = (8 * (IDLE_BYTES as usize + 20 + 1) - 29).div_ceil(HEAD + 16_000);
        check(frame(99, 0, 0, 16_000), idle, "inbound_idle_frames_flood");
    }

    #[test]
    fn what_comes_beside_streams_and_bodies_is_none() {
        let watch = Watch::of_client(FrameLimits::default());
        let mut heads = Heads::new(Rc::clone(&watch));
        heads.look(&[0; PREFACE]);
        for stream in 1..1000 {
            heads.look(&frame(1, 4, stream, 50));
            heads.look(&frame(2, 0, stream, 5));
            // An empty one now and then, and one that ends the stream.
            [100, 0, 100, 0].iter().for_each(|length| heads.look(&frame(0, 0, stream, *length)));
            heads.look(&frame(0, 1, stream, 0));
            watch.sent(100_000);
            (0..14).for_each(|_| heads.look(&frame(8, 0, stream, 4)));
            heads.look(&frame(6, 0, 0, 8));
        }
        assert_eq!(watch.flood(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_bring_nothing_may_come_in_time() {
        let watch = Watch::of_server(FrameLimits::default());
        let mut heads = Heads::new(Rc::clone(&watch));
        let (ping, a_second) = (frame(6, 0, 0, 8), 1000);
        for _ in 0..300 {
            (0..a_second).for_each(|_| heads.look(&ping));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(watch.flood(), None);
        (0..120 * a_second).for_each(|_| heads.look(&ping));
        assert_eq!(watch.flood(), Some("inbound_idle_frames_flood"));
    }
}
