//! Seals secrets: master keys wrap a data key for each tenant, and data keys seal the values.

pub(crate) mod aead;
pub(crate) mod data_keys;
pub(crate) mod key_rotation;
pub(crate) mod master_key;
pub(crate) mod sealer;
pub mod tenant_keys;
