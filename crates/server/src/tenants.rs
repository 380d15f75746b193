//! Runs the operator's commands on the keys and audit logs of tenants, with the database role of
//! workers, which can read the newest audit entry of every tenant.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::Duration;

use meshwright_model::Clock;
use meshwright_model::access::Role;
use meshwright_model::audit::{Anchor, ChainHead, ChainVerifier};
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::{KeyId, TenantId};
use meshwright_store::{ApiKeyToken, NewApiKey, Store, StoreError, sha256};
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::args::{AuditCommand, StoreArgs, TenantsCommand};
use crate::service::connect_store;

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
            println!("{keys} keys of {tenants} tenants were wrapped anew");
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
    tx.create_api_key(&key, clock.now()).await?;
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

fn read_anchors(file: &Path) -> Result<Vec<Anchor>, Failure> {
    let what = || format!("the anchors {}", file.display());
    let lines = BufReader::new(File::open(file).map_err(Failure::io(what()))?).lines();
    let mut anchors = Vec::new();
    for (number, line) in lines.enumerate() {
        let line = line.map_err(Failure::io(what()))?;
        let bad =
            |error| Failure::Config(format!("{}: line {}: {error}", file.display(), number + 1));
        anchors.push(serde_json::from_str(&line).map_err(bad)?);
    }
    Ok(anchors)
}

/// File of audit anchors, which is only appended to. It belongs where the administrator of the
/// database cannot write.
pub(crate) struct AnchorLog {
    file: File,
    last_anchored: HashMap<TenantId, i64>,
}

impl AnchorLog {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let what = || format!("the anchors {}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(Failure::io(what()))?;
        let known = read_anchors(path)?
            .into_iter()
            .map(|anchor| (anchor.tenant, anchor.seq))
            .collect();
        Ok(Self {
            file,
            last_anchored: known,
        })
    }

    /// Appends an anchor for each audit log that has new entries, and returns their number.
    pub(crate) async fn append_new_heads(&mut self, store: &Store) -> Result<usize, Failure> {
        let at = SystemClock.now();
        let mut lines = String::new();
        let mut count = 0;
        for (tenant, ChainHead { seq, hash }) in store.audit_heads().await? {
            if self
                .last_anchored
                .get(&tenant)
                .is_some_and(|known| *known >= seq)
                || seq == 0
            {
                continue;
            }
            let line = serde_json::to_string(&Anchor {
                tenant,
                seq,
                hash,
                at,
            })
            .expect("our own types");
            lines += &format!("{line}\n");
            self.last_anchored.insert(tenant, seq);
            count += 1;
        }
        let written = self
            .file
            .write_all(lines.as_bytes())
            .and_then(|()| self.file.sync_data());
        written.map_err(Failure::io("writing the anchors"))?;
        Ok(count)
    }

    /// Appends anchors at each interval until `stop` is cancelled.
    pub(crate) async fn append_periodically(
        mut self,
        store: Store,
        every: Duration,
        stop: CancellationToken,
    ) {
        while stop
            .run_until_cancelled(tokio::time::sleep(every))
            .await
            .is_some()
        {
            if let Err(failure) = self.append_new_heads(&store).await {
                tracing::error!(
                    error = &failure as &dyn std::error::Error,
                    "could not append audit anchors; trying again after the next interval"
                );
            }
        }
    }
}
