//! The operator's words: the short configuration language, from text to a checked model.
//!
//! `check_files` is the whole way: texts → tree with places (`node`) → named objects (`draft`) → typed sections (`listener`,
//! `route`, `api`, `policy`, `cluster`) → model (`check`). Every problem is reported, each with its place.
//! Never does I/O, and never names an Envoy message.

pub mod node;
pub mod problem;
pub mod value;

pub mod draft;
pub mod read;

pub mod api;
pub mod cluster;
pub mod listener;
pub mod policy;
pub mod route;

pub mod check;
pub mod references;

pub use check::{Checked, Model, RawResource, check, check_files};
pub use draft::{Draft, Kind, Object, Source, secret_references};
pub use problem::{Code, Place, Problem, Problems};
pub use read::Attachments;
