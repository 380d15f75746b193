//! The command line `meshwright`.
fn main() {}
