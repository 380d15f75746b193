//! Reads requests: the caller, the parameters, the body, and the mutation that a request asks for.

pub(crate) mod caller;
pub(crate) mod long_poll;
pub(crate) mod mutation;
pub(crate) mod pagination;
pub(crate) mod params;
pub(crate) mod release_import;
