//! How an upgrade goes: stages to plans, check, act and undo of each step, and the ports they use.
