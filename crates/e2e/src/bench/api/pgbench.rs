//! Runs pgbench with the statements that a request sends. The read statements are those that the
//! store's macros were checked with, so they stay the same as the service's; they contain values
//! where the service sends parameters.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};
use meshwright_store::embedded_postgres::{EmbeddedPostgres, SUPERUSER};
use serde_json::Value;

use super::FIRST_TENANT;
use crate::process_stat::read_process_stat;
use crate::{Result, database, run_command};

/// Folder of the queries that sqlx has checked.
const QUERIES_DIR: &str = ".sqlx";
/// Scale factor of `pgbench -S`, which has 100,000 rows for each unit.
const PGBENCH_SCALE: &str = "1";

/// Checks that pgbench is installed.
///
/// # Errors
///
/// Returns an error that names the missing package.
pub(super) fn require_pgbench() -> Result<()> {
    let program = database::postgres_program("pgbench")?;
    if program.exists() {
        return Ok(());
    }
    Err(anyhow!(
        "{} is missing; Debian has it in the package postgresql-contrib or postgresql",
        program.display()
    ))
}

/// Database and scripts that pgbench uses.
pub(super) struct PgbenchDatabase {
    folder: PathBuf,
    /// URL with the role of the API.
    api: String,
    /// URL with the role that owns the rows of `pgbench -S`.
    root: String,
    reads: PathBuf,
    writes: PathBuf,
    clients: String,
    seconds: String,
}

impl PgbenchDatabase {
    /// Writes the scripts, and creates the rows of `pgbench -S`.
    pub(super) fn create_scripts(
        postgres: &EmbeddedPostgres,
        scratch: &Path,
        clients: usize,
        seconds: u64,
    ) -> Result<Self> {
        let (api, root) = (
            postgres.url("mw_api", database::DATABASE_NAME),
            postgres.url(SUPERUSER, "postgres"),
        );
        let (reads, writes) = (scratch.join("reads.sql"), scratch.join("writes.sql"));
        let written = std::fs::write(&reads, read_script()?)
            .and_then(|()| std::fs::write(&writes, write_script()));
        written?;
        run_command(pgbench_command()?.args([
            "--initialize",
            "--quiet",
            "--scale",
            PGBENCH_SCALE,
            &root,
        ]))?;
        let (folder, clients, seconds) = (
            scratch.join("postgres"),
            clients.to_string(),
            seconds.to_string(),
        );
        Ok(Self {
            folder,
            api,
            root,
            reads,
            writes,
            clients,
            seconds,
        })
    }

    /// Returns the transactions per second that read the same as a GET.
    pub(super) fn measure_reads(&self) -> Result<f64> {
        self.measure_script(&self.reads)
    }

    /// Returns the transactions per second that write the same as a POST.
    pub(super) fn measure_writes(&self) -> Result<f64> {
        self.measure_script(&self.writes)
    }

    fn measure_script(&self, script: &Path) -> Result<f64> {
        let mut run = pgbench_command()?;
        run.arg("--no-vacuum").arg("--file").arg(script);
        self.run_pgbench(run, &self.api)
    }

    /// Returns the selects of single rows by their keys per second.
    pub(super) fn measure_selects(&self) -> Result<f64> {
        let mut run = pgbench_command()?;
        run.args(["--no-vacuum", "--select-only"]);
        self.run_pgbench(run, &self.root)
    }

    fn run_pgbench(&self, mut run: Command, database: &str) -> Result<f64> {
        run.args([
            "--protocol",
            "prepared",
            "--jobs",
            "2",
            "--client",
            &self.clients,
            "--time",
            &self.seconds,
            database,
        ]);
        let said = run_command(&mut run)?;
        let line = said.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        rate.with_context(|| format!("pgbench said {said}"))
    }

    /// Returns the processor seconds of the whole Postgres server so far: of its running processes
    /// and of those that have ended.
    pub(super) fn server_cpu_seconds(&self) -> Result<f64> {
        let file = self.folder.join("data").join("postmaster.pid");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let server: u32 = text
            .lines()
            .next()
            .unwrap_or_default()
            .parse()
            .context("the server has no number")?;
        let own = read_process_stat(server).context("the server does not run")?;
        let entries = std::fs::read_dir("/proc")?;
        let processes = entries
            .flatten()
            .filter_map(|entry| read_process_stat(entry.file_name().to_str()?.parse().ok()?));
        let children: f64 = processes
            .filter(|process| process.parent == server)
            .map(|process| process.own_seconds)
            .sum();
        Ok(own.own_seconds + own.ended_children_seconds + children)
    }
}

fn pgbench_command() -> Result<Command> {
    Ok(Command::new(database::postgres_program("pgbench")?))
}

/// Returns the SQL expression for the tenant of a pgbench client, or for one of its keys: both have
/// ids that are built from a first number and the number of the client.
fn client_uuid_sql(first: u128) -> String {
    format!("lpad(to_hex({first} + :client_id::int), 32, '0')::uuid")
}

/// Returns the transaction of `GET /v1/meshes` in a tenant that has no meshes.
fn read_script() -> Result<String> {
    let (tenant, key) = (client_uuid_sql(FIRST_TENANT), client_uuid_sql(FIRST_TENANT));
    let check = checked_statement("FROM api_keys k JOIN tenants t", &tenant, Some(&key))?;
    let list = checked_statement("FROM meshes m LEFT JOIN mesh_slots", &tenant, None)?;
    Ok(format!(
        "BEGIN;\nSELECT set_config('mw.tenant', {tenant}::text, true);\n{check};\n{list};\nROLLBACK;\n"
    ))
}

/// Returns a checked query with values for its parameters: the tenant, one more id if given, and
/// values that do not filter any further.
fn checked_statement(part: &str, tenant: &str, id: Option<&str>) -> Result<String> {
    let entries = std::fs::read_dir(QUERIES_DIR).with_context(|| QUERIES_DIR.to_owned())?;
    let read =
        |path: PathBuf| serde_json::from_str::<Value>(&std::fs::read_to_string(path).ok()?).ok();
    let known = entries.flatten().filter_map(|entry| read(entry.path()));
    let found = known.into_iter().find(|known| {
        known["query"]
            .as_str()
            .is_some_and(|query| query.contains(part))
    });
    let found = found.with_context(|| format!("no query has {part}"))?;
    // Every id lies between the id of only zeros and the id of only `f`.
    let bound = |digit: char| format!("'{}'::uuid", digit.to_string().repeat(32));
    let mut query = found["query"]
        .as_str()
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let types = found["describe"]["parameters"]["Left"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    // Replace the last parameter first, because `$1` is the beginning of `$10`.
    for (number, kind) in types.iter().enumerate().rev() {
        let value = match (number, kind.as_str().unwrap_or_default()) {
            (0, _) => tenant.to_owned(),
            (1, "Uuid") if id.is_some() => id.unwrap_or_default().to_owned(),
            (_, "Int8") => "51::bigint".into(),
            (_, "Bool") => "false".into(),
            (_, "TextArray") => "'{}'::text[]".into(),
            (_, "UuidArray") => "NULL::uuid[]".into(),
            (_, "Uuid") if query.contains(&format!("BETWEEN ${}", number + 1)) => bound('0'),
            (_, "Uuid") if query.contains(&format!("BETWEEN ${number} AND ${}", number + 1)) => {
                bound('f')
            }
            (_, "Uuid") => "NULL::uuid".into(),
            (_, "Text") => "NULL::text".into(),
            (_, other) => bail!("no value of type {other} is known for {part}"),
        };
        query = query.replace(&format!("${}", number + 1), &value);
    }
    Ok(query)
}

/// Returns the transactions of `POST /v1/api-keys/{id}/rotate`: the check of the caller, and the
/// change with its audit entry.
fn write_script() -> String {
    let (tenant, caller, rotated) = (
        client_uuid_sql(FIRST_TENANT),
        client_uuid_sql(FIRST_TENANT),
        client_uuid_sql(2 * FIRST_TENANT),
    );
    let begin = format!("BEGIN;\nSELECT set_config('mw.tenant', {tenant}::text, true);\n");
    let key = |id: &str| {
        format!("SELECT * FROM api_keys WHERE tenant_id = {tenant} AND key_id = {id};\n")
    };
    let digest = "decode(repeat('07', 32), 'hex')";
    format!(
        "{begin}SELECT k.*, t.state FROM api_keys k JOIN tenants t USING (tenant_id) WHERE k.tenant_id = {tenant} AND key_id = {caller};
ROLLBACK;
{begin}{}UPDATE api_keys SET former_hmac = secret_hmac, former_until = now(), secret_hmac = {digest} WHERE tenant_id = {tenant} AND key_id = {rotated} AND revoked_at IS NULL;
{}UPDATE tenant_heads SET event_seq = event_seq + 0, audit_seq = audit_seq + 1 WHERE tenant_id = {tenant} RETURNING audit_seq \\gset
INSERT INTO audit_entries (tenant_id, seq, at, actor, action, target, request_id, before_hash, after_hash, hash) VALUES ({tenant}, :audit_seq::bigint, now(), 'pgbench', 'rotateApiKey', {rotated}::text, NULL, {digest}, {digest}, {digest});
UPDATE tenant_heads SET audit_hash = {digest} WHERE tenant_id = {tenant};
COMMIT;
",
        key(&rotated),
        key(&rotated)
    )
}
