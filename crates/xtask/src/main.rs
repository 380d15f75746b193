//! Checks and measurements that cargo itself does not do.
fn main() {}
