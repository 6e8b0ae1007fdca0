//! The control plane and its proxies together, over loopback: what operators apply is what clients get.

mod away;
mod harness;
mod hostile;
mod identity;
mod operate;
mod serving;
mod size;
mod storm;
mod streams;
mod tiers;
mod words;
