//! Access logs: where lines go. Writing a line makes no system call and takes no lock.

pub mod writer;
