//! Dispatches the command to the module that runs it.

use meshwright_wire::ReleaseList;

use crate::client::Client;
use crate::options::{CliArgs, Command};
use crate::output::print_line;
use crate::profile::{Profile, resolve_profile, save_profile};
use crate::{
    Result, access, audit, catalogue, clusters, events, meshes, operations, rollouts, upgrades,
    webhooks,
};

pub(crate) async fn run_command(options: CliArgs) -> Result<()> {
    let profile = resolve_profile(&options)?;
    let client = Client::new(profile.clone())?;
    let format = options.output;
    match options.command {
        Command::Login => log_in(&client, &profile).await,
        Command::Releases => catalogue::print_releases(&client, format).await,
        Command::Release(command) => catalogue::run_release_command(&client, format, command).await,
        Command::Hosting(command) => catalogue::run_hosting_command(&client, format, command).await,
        Command::Cluster(command) => clusters::run_cluster_command(&client, format, command).await,
        Command::Mesh(command) => meshes::run_mesh_command(&client, format, command).await,
        Command::Upgrade(command) => upgrades::run_upgrade_command(&client, format, command).await,
        Command::Rollout(command) => rollouts::run_rollout_command(&client, format, command).await,
        Command::Operation(command) => {
            operations::run_operation_command(&client, format, command).await
        }
        Command::Key(command) => access::run_key_command(&client, format, command).await,
        Command::Access(command) => access::run_access_command(&client, format, command).await,
        Command::Webhook(command) => webhooks::run_webhook_command(&client, format, command).await,
        Command::Audit(command) => audit::run_audit_command(&client, format, command).await,
        Command::Tenant(command) => access::run_tenant_command(&client, format, command).await,
        Command::Usage => access::print_usage(&client, format).await,
        Command::Events { after, limit } => {
            events::print_events(&client, format, after, limit as usize).await
        }
        Command::Completion { .. } => Ok(()),
    }
}

/// Saves the address and key as the profile, once the service has accepted them.
async fn log_in(client: &Client, profile: &Profile) -> Result<()> {
    let releases: ReleaseList = client.get("/v1/releases").await?;
    let file = save_profile(profile)?;
    print_line(&format!(
        "logged in; the profile is {}; {} releases are offered",
        file.display(),
        releases.items.len()
    ))
}
