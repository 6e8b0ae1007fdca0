//! The memory of heads that are gone, kept by each thread for the heads to come.
//!
//! The last one given back is the next one taken, so that it is still in the cache.

use std::cell::RefCell;

/// How many a thread keeps, and how large they may be.
const KEEP: usize = 64;
const MAX_BYTES: usize = 4096;
const MAX_FIELDS: usize = 64;

/// A free list of pairs of empty vectors: the bytes of a head and its index.
pub(crate) struct Spare<E>(RefCell<Vec<(Vec<u8>, Vec<E>)>>);

impl<E> Spare<E> {
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    pub(crate) fn take(&self) -> Option<(Vec<u8>, Vec<E>)> {
        self.0.borrow_mut().pop()
    }

    pub(crate) fn give(&self, mut bytes: Vec<u8>, mut index: Vec<E>) {
        let mut list = self.0.borrow_mut();
        if list.len() < KEEP && bytes.capacity() <= MAX_BYTES && index.capacity() <= MAX_FIELDS {
            bytes.clear();
            index.clear();
            list.push((bytes, index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_empty_and_not_too_large() {
        let spare = Spare::<u8>::new();
        assert!(spare.take().is_none());
        spare.give(vec![1; 100], vec![1; 10]);
        spare.give(vec![1; MAX_BYTES + 1], vec![1]);
        let (bytes, index) = spare.take().unwrap();
        assert!(bytes.is_empty() && index.is_empty() && bytes.capacity() >= 100);
        assert!(spare.take().is_none());
    }
}
