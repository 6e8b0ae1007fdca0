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
fn take_free(list: &mut Vec<BytesMut>, class: usize) -> BytesMut {
    for _ in 0..TRIES.min(list.len()) {
        let Some(mut buffer) = list.pop() else { break };
        // Pieces of the buffer may still be on their way out; then it is not free yet.
        if buffer.try_reclaim(CLASSES[class]) {
            return buffer;
        }
        list.insert(0, buffer);
    }
    BytesMut::with_capacity(CLASSES[class])
}

/// Lets `read` put something into an empty buffer of this class. Only a buffer that holds something then leaves the
/// list, so that looking for bytes that are not there costs little.
pub(super) fn read_into<T>(class: usize, read: impl FnOnce(&mut BytesMut) -> T) -> (T, Option<BytesMut>) {
    POOL.with(|pool| match pool.try_borrow_mut() {
        Ok(mut pool) => {
            let list = &mut pool.read[class];
            if !list.last_mut().is_some_and(|buffer| buffer.try_reclaim(CLASSES[class])) {
                let free = take_free(list, class);
                list.push(free);
            }
            let Some(buffer) = list.last_mut() else { unreachable!("a buffer was just put there") };
            let result = read(buffer);
            let filled = if buffer.is_empty() { None } else { list.pop() };
            (result, filled)
        }
        // Whoever is read from reads by this list, too.
        Err(_) => {
            let mut buffer = BytesMut::with_capacity(CLASSES[class]);
            let result = read(&mut buffer);
            (result, Some(buffer).filter(|buffer| !buffer.is_empty()))
        }
    })
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
