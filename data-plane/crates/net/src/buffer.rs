//! Buffers for bulk copying, from a free list of this thread.
//!
//! Three sizes; what is not in use lies in the list, up to a bound, and never with a connection that waits.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};

/// The sizes, small to large.
pub const SIZES: [usize; 3] = [16 << 10, 64 << 10, 256 << 10];

/// How many free buffers of each size a thread keeps: about 6 MiB in all.
const KEPT: [usize; 3] = [64, 16, 16];

thread_local! {
    static IN_USE: Cell<usize> = const { Cell::new(0) };
    static FREE: RefCell<[Vec<Box<[u8]>>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) };
}

/// A buffer; it goes back to the list when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    size: usize,
}

impl Buffer {
    /// A buffer of `SIZES[size]` bytes with any content.
    pub fn take(size: usize) -> Self {
        let size = size.min(SIZES.len() - 1);
        let free = FREE.with_borrow_mut(|free| free[size].pop());
        IN_USE.set(IN_USE.get() + 1);
        Self { bytes: free.unwrap_or_else(|| vec![0; SIZES[size]].into_boxed_slice()), size }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let _ = IN_USE.try_with(|in_use| in_use.set(in_use.get().saturating_sub(1)));
        // The list is gone when a thread ends; the buffer is simply freed then.
        let _ = FREE.try_with(|free| {
            let free = &mut free.borrow_mut()[self.size];
            if free.len() < KEPT[self.size] {
                free.push(bytes);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// How many buffers of this thread are in use.
pub fn in_use() -> usize {
    IN_USE.get()
}
