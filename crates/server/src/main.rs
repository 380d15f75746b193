//! The binary `meshwright-server`: configuration and wiring.
fn main() {}
