//! Runs the operator's commands on the keys and audit logs of tenants, with the database role of
//! workers, which can read the newest audit entry of every tenant.

use meshwright_model::Clock;
use meshwright_model::access::Role;
use meshwright_model::audit::{Anchor, ChainHead, ChainVerifier};
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::{KeyId, TenantId};
use meshwright_store::{ApiKeyToken, NewApiKey, Store, StoreError, sha256};

use crate::Failure;
use crate::args::{AuditCommand, StoreArgs, TenantsCommand};
use crate::audit_anchors::{AnchorLog, read_anchors};
use crate::database::connect_store;

/// Number of audit entries that one query reads.
const AUDIT_PAGE_SIZE: i64 = 1000;

pub(crate) async fn run_tenants_command(
    database: &StoreArgs,
    command: TenantsCommand,
) -> Result<(), Failure> {
    let store = connect_store(database).await?;
    match command {
        TenantsCommand::OperatorKey { name } => {
            store.ensure_platform_key(SystemClock.now()).await?;
            println!(
                "{}",
                create_owner_key(&store, TenantId::PLATFORM, &name).await?
            );
        }
        TenantsCommand::RotateKey { tenant } => {
            let version = store.rotate_tenant_key(tenant, SystemClock.now()).await?;
            println!(
                "{tenant} has key {version}; everything that is kept for good is sealed with it"
            );
        }
        TenantsCommand::RewrapKeys => {
            let (mut keys, mut tenants) = (0, 0);
            for (tenant, _) in store.audit_heads().await? {
                keys += store.rewrap_tenant_keys(tenant).await?;
                tenants += 1;
            }
            println!("{keys} keys of {tenants} tenants were wrapped with the present key");
        }
        TenantsCommand::EraseSecrets { tenant, confirm } => {
            if confirm != tenant {
                return Err(Failure::Config(
                    "--confirm must repeat the tenant's id: nothing brings its secrets back".into(),
                ));
            }
            store.erase_tenant_keys(tenant).await?;
            println!(
                "{tenant} has no key any more: nothing that was sealed for it opens, here or in a backup"
            );
        }
    }
    Ok(())
}

pub(crate) async fn run_audit_command(
    database: &StoreArgs,
    command: AuditCommand,
) -> Result<(), Failure> {
    let store = connect_store(database).await?;
    match command {
        AuditCommand::Anchor { file } => {
            let written = AnchorLog::open(&file)?.append_new_heads(&store).await?;
            println!("{written} heads were written to {}", file.display());
            Ok(())
        }
        AuditCommand::Verify { anchors } => {
            let anchors = anchors
                .as_deref()
                .map(read_anchors)
                .transpose()?
                .unwrap_or_default();
            let mut broken = 0;
            for (tenant, _) in store.audit_heads().await? {
                match verify_audit_log(&store, tenant, &anchors).await? {
                    Ok(head) => println!("{tenant}: whole, {} entries", head.seq),
                    Err(breach) => {
                        broken += 1;
                        println!("{tenant}: NOT whole: {breach}");
                    }
                }
            }
            if broken == 0 {
                Ok(())
            } else {
                Err(Failure::Config(format!(
                    "{broken} audit logs are not whole"
                )))
            }
        }
    }
}

/// Creates a key that may do everything within a tenant, and returns its text.
pub(crate) async fn create_owner_key(
    store: &Store,
    tenant: TenantId,
    name: &str,
) -> Result<String, Failure> {
    let clock = SystemClock;
    let text = ApiKeyToken::generate(tenant, KeyId(clock.new_uuid()));
    let (digest, scopes) = (text.secret_digest(store.sealer()), Vec::new());
    let key = NewApiKey {
        id: text.key,
        name: name.into(),
        role: Role::Owner,
        scopes,
        digest,
        expires_at: None,
    };
    let mut tx = store.begin(tenant).await?;
    tx.api_keys().create_api_key(&key, clock.now()).await?;
    tx.commit().await?;
    Ok(text.reveal())
}

async fn verify_audit_log(
    store: &Store,
    tenant: TenantId,
    anchors: &[Anchor],
) -> Result<Result<ChainHead, meshwright_model::audit::ChainError>, StoreError> {
    let mut verifier = ChainVerifier::new(tenant, anchors, sha256);
    let mut after = 0;
    loop {
        let part = store
            .begin(tenant)
            .await?
            .audit()
            .list_audit_entries(after, AUDIT_PAGE_SIZE)
            .await?;
        let Some(last) = part.last() else {
            return Ok(verifier.verify_end());
        };
        after = last.seq;
        if let Err(breach) = part
            .iter()
            .try_for_each(|linked| verifier.verify_next(linked))
        {
            return Ok(Err(breach));
        }
    }
}
