//! Seals secrets: master keys wrap a data key for each tenant, and data keys seal the values.

pub(crate) mod key_rotation;
pub(crate) mod master_key;
pub(crate) mod sealer;
pub mod tenant_keys;
