//! What operators do with tenants' keys and audit logs. Runs with the role of workers, which sees every tenant's head.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::Duration;

use model::Clock;
use model::access::Role;
use model::audit::{Anchor, Head, Verifier};
use model::clock::SystemClock;
use model::ids::{KeyId, TenantId};
use store::{KeyText, NewKey, Store, StoreError, sha256};
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::options::{Audit, Backend, Tenants};
use crate::service::connect;

/// Entries that are read at once.
const PART: i64 = 1000;

pub(crate) async fn tenants(database: &Backend, command: Tenants) -> Result<(), Failure> {
    let store = connect(database).await?;
    match command {
        Tenants::OperatorKey { name } => {
            store.prepare_platform(SystemClock.now()).await?;
            println!("{}", new_owner_key(&store, TenantId::PLATFORM, &name).await?);
        }
        Tenants::RotateKey { tenant } => {
            let version = store.rotate_tenant_key(tenant, SystemClock.now()).await?;
            println!("{tenant} has key {version}; everything that is kept for good is sealed with it");
        }
        Tenants::RewrapKeys => {
            let (mut keys, mut tenants) = (0, 0);
            for (tenant, _) in store.audit_heads().await? {
                keys += store.rewrap_tenant_keys(tenant).await?;
                tenants += 1;
            }
            println!("{keys} keys of {tenants} tenants were wrapped anew");
        }
        Tenants::EraseSecrets { tenant, confirm } => {
            if confirm != tenant {
                return Err(Failure::Config(
                    "--confirm must repeat the tenant's id: nothing brings its secrets back".into(),
                ));
            }
            store.erase_tenant_keys(tenant).await?;
            println!("{tenant} has no key any more: nothing that was sealed for it opens, here or in a backup");
        }
    }
    Ok(())
}

pub(crate) async fn audit(database: &Backend, command: Audit) -> Result<(), Failure> {
    let store = connect(database).await?;
    match command {
        Audit::Anchor { file } => {
            let written = Anchors::open(&file)?.advance(&store).await?;
            println!("{written} heads were written to {}", file.display());
            Ok(())
        }
        Audit::Verify { anchors } => {
            let anchors = anchors.as_deref().map(read).transpose()?.unwrap_or_default();
            let mut broken = 0;
            for (tenant, _) in store.audit_heads().await? {
                match verify(&store, tenant, &anchors).await? {
                    Ok(head) => println!("{tenant}: whole, {} entries", head.seq),
                    Err(breach) => {
                        broken += 1;
                        println!("{tenant}: NOT whole: {breach}");
                    }
                }
            }
            if broken == 0 { Ok(()) } else { Err(Failure::Config(format!("{broken} audit logs are not whole"))) }
        }
    }
}

/// Makes a key that may do everything within a tenant, and answers its text.
pub(crate) async fn new_owner_key(store: &Store, tenant: TenantId, name: &str) -> Result<String, Failure> {
    let clock = SystemClock;
    let text = KeyText::generate(tenant, KeyId(clock.uuid()));
    let (digest, scopes) = (text.digest(store.vault()), Vec::new());
    let key = NewKey { id: text.key, name: name.into(), role: Role::Owner, scopes, digest, expires_at: None };
    let mut tx = store.begin(tenant).await?;
    tx.create_key(&key, clock.now()).await?;
    tx.commit().await?;
    Ok(text.reveal())
}

async fn verify(
    store: &Store,
    tenant: TenantId,
    anchors: &[Anchor],
) -> Result<Result<Head, model::audit::Breach>, StoreError> {
    let mut verifier = Verifier::new(tenant, anchors, sha256);
    let mut after = 0;
    loop {
        let part = store.begin(tenant).await?.audit_entries(after, PART).await?;
        let Some(last) = part.last() else { return Ok(verifier.end()) };
        after = last.seq;
        if let Err(breach) = part.iter().try_for_each(|linked| verifier.read(linked)) {
            return Ok(Err(breach));
        }
    }
}

fn read(file: &Path) -> Result<Vec<Anchor>, Failure> {
    let what = || format!("the anchors {}", file.display());
    let lines = BufReader::new(File::open(file).map_err(Failure::io(what()))?).lines();
    let mut anchors = Vec::new();
    for (number, line) in lines.enumerate() {
        let line = line.map_err(Failure::io(what()))?;
        let bad = |error| Failure::Config(format!("{}: line {}: {error}", file.display(), number + 1));
        anchors.push(serde_json::from_str(&line).map_err(bad)?);
    }
    Ok(anchors)
}

/// A file of anchors that is only ever added to. It belongs where the database's administrator cannot write.
pub(crate) struct Anchors {
    file: File,
    known: HashMap<TenantId, i64>,
}

impl Anchors {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let what = || format!("the anchors {}", path.display());
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(Failure::io(what()))?;
        let known = read(path)?.into_iter().map(|anchor| (anchor.tenant, anchor.seq)).collect();
        Ok(Self { file, known })
    }

    /// Writes down every head that has moved on, and answers how many.
    pub(crate) async fn advance(&mut self, store: &Store) -> Result<usize, Failure> {
        let at = SystemClock.now();
        let mut lines = String::new();
        let mut count = 0;
        for (tenant, Head { seq, hash }) in store.audit_heads().await? {
            if self.known.get(&tenant).is_some_and(|known| *known >= seq) || seq == 0 {
                continue;
            }
            let line = serde_json::to_string(&Anchor { tenant, seq, hash, at }).expect("our own types");
            lines += &format!("{line}\n");
            self.known.insert(tenant, seq);
            count += 1;
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(Failure::io("writing the anchors"))?;
        Ok(count)
    }

    /// Writes down, again and again, until told to stop.
    pub(crate) async fn keep(mut self, store: Store, every: Duration, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            if let Err(failure) = self.advance(&store).await {
                tracing::error!(error = &failure as &dyn std::error::Error, "the audit logs were not anchored");
            }
        }
    }
}
