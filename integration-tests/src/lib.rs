//! Nothing: the tests that need more than one crate of the fleet lie in `tests/`, the programs for other peers in `examples/`.
