//! Bakes version, commit and features into the binary.
fn main() {}
