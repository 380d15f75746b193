//! Development only: a throw-away database, a world of fake clusters with faults, builders.
