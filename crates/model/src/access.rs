//! Decides which principal may do what, from the role table in [`Role::allows`].
//!
//! A principal has grants. A grant is a role on everything of a tenant, on one mesh, or on one
//! cluster.

use std::fmt;
use std::str::FromStr;

use crate::closed_set;
use crate::closed_set::ClosedSet;
use crate::ids::{ClusterId, MeshId, TenantId};

/// Role of a grant. [`Role::allows`] holds the table of what each role allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Reads everything, including the audit log and the list of keys, and changes nothing.
    Auditor,
    /// Reads meshes, clusters, upgrades and their events.
    Viewer,
    /// Reads as a viewer does, and changes meshes, clusters and upgrades.
    Operator,
    /// Does everything within the tenant, including changes of keys and access.
    Owner,
}

/// Action that a request asks for. Every route names exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Read the catalogue, meshes, clusters, upgrades, operations and events.
    Read,
    /// Register or deregister a cluster, or renew its credential.
    ChangeClusters,
    /// Create, change or delete a mesh; restart workloads; label namespaces.
    ChangeMeshes,
    /// Plan an upgrade and send it verbs, such as promote or rollback.
    Upgrade,
    /// Read keys, and read who has access.
    ReadAccess,
    /// Create, rotate or revoke keys; grant or revoke access.
    ChangeAccess,
    /// Read, verify and export the audit log.
    ReadAudit,
    /// Read the tenants. Only principals of [`TenantId::PLATFORM`] may do this.
    ReadPlatform,
    /// Create, change and delete tenants; change the catalogue. Only principals of
    /// [`TenantId::PLATFORM`] may do this.
    ChangePlatform,
}

impl Role {
    /// Returns true if the role allows the action. This is the table of all rights.
    pub const fn allows(self, action: Action) -> bool {
        use Action as A;
        match self {
            Self::Owner => true,
            Self::Operator => {
                matches!(
                    action,
                    A::Read
                        | A::ChangeClusters
                        | A::ChangeMeshes
                        | A::Upgrade
                        | A::ReadPlatform
                        | A::ChangePlatform
                )
            }
            Self::Viewer => matches!(action, A::Read | A::ReadPlatform),
            Self::Auditor => matches!(
                action,
                A::Read | A::ReadAccess | A::ReadAudit | A::ReadPlatform
            ),
        }
    }

    /// Returns the least role that allows an action, for the message of a refusal. The role
    /// `auditor` is never suggested.
    pub fn least_role_for(action: Action) -> Self {
        Self::ALL
            .into_iter()
            .find(|role| *role != Self::Auditor && role.allows(action))
            .unwrap_or(Self::Owner)
    }
}

closed_set!(Role {
    Auditor = "auditor",
    Viewer = "viewer",
    Operator = "operator",
    Owner = "owner",
});

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::from_name(text).ok_or(UnknownRole)
    }
}

/// Error for a text that names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is owner, operator, viewer or auditor")]
pub struct UnknownRole;

impl Action {
    /// All actions that exist.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::ChangeClusters,
        Self::ChangeMeshes,
        Self::Upgrade,
        Self::ReadAccess,
        Self::ChangeAccess,
        Self::ReadAudit,
        Self::ReadPlatform,
        Self::ChangePlatform,
    ];

    /// Returns true if a principal of this tenant can do the action at all: customers' tenants have
    /// meshes, and only the platform tenant has tenants.
    pub fn applies_to_tenant(self, tenant: TenantId) -> bool {
        let platform = tenant == TenantId::PLATFORM;
        match self {
            Self::ReadPlatform | Self::ChangePlatform => platform,
            Self::ChangeClusters | Self::ChangeMeshes | Self::Upgrade => !platform,
            Self::Read | Self::ReadAccess | Self::ChangeAccess | Self::ReadAudit => true,
        }
    }
}

/// Extent of a grant. The written form of a mesh or cluster is its id; everything of the tenant is
/// written `tenant`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The whole tenant, with everything that belongs to it.
    Tenant,
    /// One mesh with its upgrades, operations and data plane.
    Mesh(MeshId),
    /// One cluster with its own operations.
    Cluster(ClusterId),
}

/// Error for a text that names no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scope is 'tenant', the id of a mesh or the id of a cluster")]
pub struct UnknownScope;

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant => f.write_str("tenant"),
            Self::Mesh(id) => id.fmt(f),
            Self::Cluster(id) => id.fmt(f),
        }
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        if text == "tenant" {
            return Ok(Self::Tenant);
        }
        let mesh = text.parse().map(Self::Mesh);
        mesh.or_else(|_| text.parse().map(Self::Cluster))
            .map_err(|_| UnknownScope)
    }
}

/// Role of a principal on one scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Role that the principal has.
    pub role: Role,
    /// Extent of the role: the tenant, one mesh or one cluster.
    pub scope: Scope,
}

/// Answer of [`authorize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessDecision {
    /// The action is allowed.
    Allowed,
    /// The principal may see the thing, but may not do this with it.
    Forbidden,
    /// The principal may not even know that the thing exists, so the answer is 404.
    Hidden,
}

/// Decides whether a principal with these grants may do `action` on a thing that lies in the scopes
/// `on`.
///
/// A thing may lie in several scopes: an operation belongs to its mesh and to its cluster. One
/// grant on one of these scopes is enough. An empty list means the tenant as a whole.
pub fn authorize(grants: &[Grant], action: Action, on: &[Scope]) -> AccessDecision {
    let covers = |grant: &&Grant| grant.scope == Scope::Tenant || on.contains(&grant.scope);
    let covering: Vec<&Grant> = grants.iter().filter(covers).collect();
    if covering.iter().any(|grant| grant.role.allows(action)) {
        AccessDecision::Allowed
    } else if on.is_empty() || covering.iter().any(|grant| grant.role.allows(Action::Read)) {
        // The principal can read the thing, or asks about its own tenant, so a refusal reveals
        // nothing.
        AccessDecision::Forbidden
    } else {
        AccessDecision::Hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    #[test]
    fn a_message_names_the_least_role_that_may() {
        for (action, least) in [
            (Action::Read, Role::Viewer),
            (Action::ReadPlatform, Role::Viewer),
            (Action::Upgrade, Role::Operator),
            (Action::ChangeAccess, Role::Owner),
            (Action::ReadAccess, Role::Owner),
            (Action::ReadAudit, Role::Owner),
        ] {
            assert_eq!(Role::least_role_for(action), least, "{action:?}");
        }
    }

    #[test]
    fn operators_have_tenants_and_tenants_have_meshes() {
        let tenant = TenantId(Uuid::from_u128(1));
        for action in Action::ALL {
            let fits = (
                action.applies_to_tenant(tenant),
                action.applies_to_tenant(TenantId::PLATFORM),
            );
            let wanted = match action {
                Action::ReadPlatform | Action::ChangePlatform => (false, true),
                Action::ChangeClusters | Action::ChangeMeshes | Action::Upgrade => (true, false),
                _ => (true, true),
            };
            assert_eq!(fits, wanted, "{action:?}");
        }
    }

    #[test]
    fn the_table_of_roles() {
        let mut table = String::new();
        for action in Action::ALL {
            let roles: Vec<&str> = Role::ALL
                .into_iter()
                .filter(|role| role.allows(action))
                .map(Role::as_str)
                .collect();
            table += &format!("{action:?}: {}\n", roles.join(" "));
        }
        assert_eq!(
            table,
            "Read: auditor viewer operator owner\n\
             ChangeClusters: operator owner\n\
             ChangeMeshes: operator owner\n\
             Upgrade: operator owner\n\
             ReadAccess: auditor owner\n\
             ChangeAccess: owner\n\
             ReadAudit: auditor owner\n\
             ReadPlatform: auditor viewer operator owner\n\
             ChangePlatform: operator owner\n"
        );
    }

    fn mesh(bits: u128) -> Scope {
        Scope::Mesh(MeshId(Uuid::from_u128(bits)))
    }

    #[test]
    fn a_narrowed_grant_reaches_its_own_thing_and_hides_the_others() {
        let grants = [
            Grant {
                role: Role::Operator,
                scope: mesh(1),
            },
            Grant {
                role: Role::Viewer,
                scope: mesh(2),
            },
        ];
        assert_eq!(
            authorize(&grants, Action::Upgrade, &[mesh(1)]),
            AccessDecision::Allowed
        );
        assert_eq!(
            authorize(&grants, Action::Upgrade, &[mesh(2)]),
            AccessDecision::Forbidden
        );
        assert_eq!(
            authorize(&grants, Action::Upgrade, &[mesh(3)]),
            AccessDecision::Hidden
        );
        assert_eq!(
            authorize(&grants, Action::Read, &[]),
            AccessDecision::Forbidden,
            "the tenant as a whole"
        );
    }

    #[test]
    fn an_owner_of_one_mesh_is_nobody_elsewhere() {
        let grants = [Grant {
            role: Role::Owner,
            scope: mesh(1),
        }];
        assert_eq!(
            authorize(&grants, Action::ChangeAccess, &[]),
            AccessDecision::Forbidden
        );
        assert_eq!(
            authorize(&grants, Action::ReadAudit, &[]),
            AccessDecision::Forbidden
        );
    }

    #[test]
    fn scopes_and_roles_read_back_as_they_were_written() {
        let cluster = Scope::Cluster(ClusterId(Uuid::from_u128(9)));
        for scope in [Scope::Tenant, mesh(7), cluster] {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert_eq!("everything".parse::<Scope>(), Err(UnknownScope));
        assert_eq!("admin".parse::<Role>(), Err(UnknownRole));
    }

    proptest! {
        /// More grants never take a right away, and no combination of grants allows an action that
        /// no single grant allows.
        #[test]
        fn grants_only_add(picks in prop::collection::vec((0usize..4, 0u128..4), 0..5), action in 0usize..9, on in 0u128..4) {
            let scope = |bits: u128| if bits == 0 { Scope::Tenant } else { mesh(bits) };
            let grants: Vec<Grant> = picks.iter().map(|(role, bits)| Grant { role: Role::ALL[*role], scope: scope(*bits) }).collect();
            let (action, on) = (Action::ALL[action], if on == 0 { Vec::new() } else { vec![mesh(on)] });
            let alone = grants.iter().any(|grant| authorize(&[*grant], action, &on) == AccessDecision::Allowed);
            prop_assert_eq!(authorize(&grants, action, &on) == AccessDecision::Allowed, alone);
        }
    }
}
