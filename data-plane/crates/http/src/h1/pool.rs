//! Free lists of this thread for read buffers and output buffers, so that an idle connection holds neither.
//!
//! Never shared between threads, never larger than `KEEP` says.

use std::cell::RefCell;

use bytes::BytesMut;

/// Sizes of read buffers; a body that keeps filling its buffer moves up.
pub(super) const CLASSES: [usize; 3] = [16 * 1024, 128 * 1024, 256 * 1024];

/// How many buffers of each class a thread keeps.
const KEEP: [usize; 3] = [64, 8, 8];
/// How many output buffers a thread keeps, and how large one may have grown.
const KEEP_OUTPUT: usize = 64;
const MAX_OUTPUT: usize = 32 * 1024;
/// How many kept buffers are looked at for one that nobody reads any more.
const TRIES: usize = 4;

struct Pool {
    read: [Vec<BytesMut>; 3],
    output: Vec<Vec<u8>>,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { read: [Vec::new(), Vec::new(), Vec::new()], output: Vec::new() }) };
}

/// An empty buffer with room for a read of this class.
pub(super) fn take_read(class: usize) -> BytesMut {
    let kept = POOL.try_with(|pool| {
        let list = &mut pool.borrow_mut().read[class];
        for _ in 0..TRIES.min(list.len()) {
            let mut buffer = list.pop()?;
            // Pieces of the buffer may still be on their way out; then it is not free yet.
            if buffer.try_reclaim(CLASSES[class]) {
                return Some(buffer);
            }
            list.insert(0, buffer);
        }
        None
    });
    kept.ok().flatten().unwrap_or_else(|| BytesMut::with_capacity(CLASSES[class]))
}

/// Gives an empty read buffer back.
pub(super) fn give_read(buffer: BytesMut, class: usize) {
    debug_assert!(buffer.is_empty());
    // A buffer that grew for one long head is not kept.
    if buffer.capacity() == 0 || buffer.capacity() > CLASSES[class] * 2 {
        return;
    }
    let _ = POOL.try_with(|pool| {
        let list = &mut pool.borrow_mut().read[class];
        if list.len() < KEEP[class] {
            list.push(buffer);
        }
    });
}

pub(super) fn take_output() -> Vec<u8> {
    POOL.try_with(|pool| pool.borrow_mut().output.pop()).ok().flatten().unwrap_or_else(|| Vec::with_capacity(1024))
}

pub(super) fn give_output(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > MAX_OUTPUT {
        return;
    }
    buffer.clear();
    let _ = POOL.try_with(|pool| {
        let list = &mut pool.borrow_mut().output;
        if list.len() < KEEP_OUTPUT {
            list.push(buffer);
        }
    });
}
