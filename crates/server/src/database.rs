//! Connects to the database, and loads the keys that seal secrets in it.

use std::path::Path;
use std::sync::Arc;

use meshwright_model::Clock;
use meshwright_model::clock::SystemClock;
use meshwright_store::tenant_keys::{MasterKeys, SymmetricKey};
use meshwright_store::{Sealer, Store};

use crate::Failure;
use crate::args::{MasterKeySource, StoreArgs};
use crate::vault_transit::TransitKeyWrapper;

/// Parses a key of 32 bytes from 64 hexadecimal digits.
fn parse_hex_key(text: &str, file: &Path) -> Result<SymmetricKey, Failure> {
    meshwright_model::audit::hex::decode(text.trim()).ok_or_else(|| {
        let file = file.display();
        Failure::Config(format!(
            "{file} must hold 64 hexadecimal digits; make them with: openssl rand -hex 32"
        ))
    })
}

/// Loads the server's own secret, and builds the sealer with the configured source of the master
/// key.
pub(crate) fn load_sealer(file: &Path, master: &MasterKeySource) -> Result<Sealer, Failure> {
    let read = |file: &Path| {
        std::fs::read_to_string(file).map_err(Failure::io(format!("the key {}", file.display())))
    };
    let secret = parse_hex_key(&read(file)?, file)?;
    if let Some(file) = &master.master_key_file {
        let text = read(file)?;
        let mut keys = text
            .lines()
            .map(|line| parse_hex_key(line, file))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(Failure::Config(format!("{} holds no key", file.display())));
        }
        let first = keys.remove(0);
        return Ok(Sealer::with_key_wrapper(
            secret,
            Arc::new(MasterKeys::new(first, keys)),
        ));
    }
    if let (Some(address), Some(token)) = (&master.transit_address, &master.transit_token_file) {
        let transit = TransitKeyWrapper::new(
            address,
            &master.transit_mount,
            &master.transit_key,
            token.clone(),
        );
        let transit =
            transit.map_err(|error| Failure::Config(format!("--transit-address: {error}")))?;
        return Ok(Sealer::with_key_wrapper(secret, Arc::new(transit)));
    }
    Ok(Sealer::new(secret))
}

/// Connects to the database with the role in its URL.
pub(crate) async fn connect_store(database: &StoreArgs) -> Result<Store, Failure> {
    Ok(Store::connect(
        &database.database_url,
        load_sealer(&database.server_secret_file, &database.master)?,
    )
    .await?)
}

/// Creates data keys for tenants that were created before each tenant had its own.
pub(crate) async fn backfill_tenant_keys(store: &Store) -> Result<(), Failure> {
    let count = store.backfill_tenant_keys(SystemClock.now()).await?;
    if count > 0 {
        tracing::info!(count, "created data keys for tenants that had none");
    }
    Ok(())
}
