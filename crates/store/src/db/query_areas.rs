//! Groups the queries of a transaction by what they are about, so that a call says where its query
//! is found: `tx.upgrades().apply_verb(…)` is in `operations/`.

use crate::Tx;

/// Defines a type for the queries of one area, and the method of [`Tx`] that returns it.
macro_rules! query_areas {
    ($($(#[$doc:meta])* $area:ident $method:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $area<'t, 'a> {
                pub(crate) tx: &'t mut Tx<'a>,
            }
        )*

        impl<'a> Tx<'a> {
            $(
                $(#[$doc])*
                pub fn $method(&mut self) -> $area<'_, 'a> {
                    $area { tx: self }
                }
            )*
        }
    };
}

query_areas! {
    /// Queries for API keys.
    ApiKeyQueries api_keys;
    /// Queries for the audit log.
    AuditQueries audit;
    /// Queries for hosting clusters and releases.
    CatalogueQueries catalogue;
    /// Queries for clusters, their credentials and checks.
    ClusterQueries clusters;
    /// Queries for deliveries to webhooks.
    DeliveryQueries deliveries;
    /// Queries for the event log.
    EventQueries events;
    /// Queries for idempotency keys and stored responses.
    IdempotencyQueries idempotency;
    /// Queries for identity providers and role bindings.
    IdentityQueries identities;
    /// Queries for labels.
    LabelQueries labels;
    /// Queries for meshes, their revisions, locks and observations.
    MeshQueries meshes;
    /// Queries for operations, their plans, steps and claims.
    OperationQueries operations;
    /// Queries for the tenant's keys, and for what they seal.
    SealingQueries sealing;
    /// Queries for tenants and their quotas.
    TenantQueries tenants;
    /// Queries for upgrades and their transitions.
    UpgradeQueries upgrades;
    /// Queries for webhooks.
    WebhookQueries webhooks;
}
