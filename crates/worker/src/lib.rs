//! The engine and the observers: claims operations, runs their steps, records.
