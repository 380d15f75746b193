//! Two tenants in one database: no request of one tenant, in any role, reveals or changes anything
//! of the other. The tests run three times: with both walls, without row-level security, and with
//! queries that forget the tenant (`cargo e2e isolation`).

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use meshwright_model::Clock;
use meshwright_model::access::{Grant, Role, Scope};
use meshwright_model::ids::{
    BindingId, ClusterId, KeyId, MeshId, OperationId, ProviderId, TenantId, UpgradeId, WebhookId,
};
use meshwright_store::embedded_postgres::SUPERUSER;
use meshwright_store::{AccessFilter, Binding, ListFilter, NewWebhook, Page, Provider, Subject};
use meshwright_testkit::Fleet;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Reply, Route, Service, key, routes, seen};

/// Ids of one tenant's things, by the names that paths use.
#[derive(Debug, Clone)]
struct Ids {
    mesh: String,
    cluster: String,
    upgrade: String,
    operation: String,
    key: String,
    provider: String,
    binding: String,
    webhook: String,
    tenant: String,
}

impl Ids {
    async fn of(fleet: &Fleet) -> Self {
        let upgrade = fleet.get_or_plan_upgrade().await.to_string();
        // A roll-out is an operation, so both have one id.
        let operation = fleet.get_or_queue_rollout().await.to_string();
        let mut tx = fleet.db.begin_beside_workers().await;
        let cluster = tx
            .clusters()
            .list_clusters(&AccessFilter::ALL, &ListFilter::default(), Page::ALL)
            .await
            .expect("clusters")[0]
            .id
            .to_string();
        let key = tx
            .api_keys()
            .list_api_keys(false, Page::ALL)
            .await
            .expect("keys")[0]
            .id
            .to_string();
        let provider = tx
            .identities()
            .list_identity_providers(Page::ALL)
            .await
            .expect("providers")[0]
            .id
            .to_string();
        let binding = tx
            .identities()
            .list_role_bindings(None, Page::ALL)
            .await
            .expect("bindings")[0]
            .id
            .to_string();
        let webhook = tx
            .webhooks()
            .list_webhooks(Page::ALL)
            .await
            .expect("webhooks")[0]
            .id
            .to_string();
        Self {
            mesh: fleet.mesh.to_string(),
            cluster,
            upgrade,
            operation,
            key,
            provider,
            binding,
            webhook,
            tenant: fleet.db.tenant.to_string(),
        }
    }

    fn unknown() -> Self {
        let id = Uuid::from_u128(0xdead);
        Self {
            mesh: MeshId(id).to_string(),
            cluster: ClusterId(id).to_string(),
            upgrade: UpgradeId(id).to_string(),
            operation: OperationId(id).to_string(),
            key: KeyId(id).to_string(),
            provider: ProviderId(id).to_string(),
            binding: BindingId(id).to_string(),
            webhook: WebhookId(id).to_string(),
            tenant: TenantId(id).to_string(),
        }
    }

    /// What no id is: of another kind, too short, not letters, an injection.
    fn malformed() -> Vec<Self> {
        let all = |text: &str| {
            let [
                mesh,
                cluster,
                upgrade,
                operation,
                key,
                provider,
                binding,
                webhook,
                tenant,
            ] = std::array::from_fn(|_| text.to_owned());
            Self {
                mesh,
                cluster,
                upgrade,
                operation,
                key,
                provider,
                binding,
                webhook,
                tenant,
            }
        };
        [
            "mesh_",
            "x",
            "00000000-0000-0000-0000-000000000001",
            "%27%20OR%201=1--",
            "..%2f..%2f",
            "%00",
        ]
        .map(all)
        .into()
    }

    fn fill(&self, path: &str, verb: &str) -> String {
        path.replace("{mesh_id}", &self.mesh)
            .replace("{cluster_id}", &self.cluster)
            .replace("{upgrade_id}", &self.upgrade)
            .replace("{operation_id}", &self.operation)
            .replace("{rollout_id}", &self.operation)
            .replace("{key_id}", &self.key)
            .replace("{tenant_id}", &self.tenant)
            .replace("{version}", "1.27.8.1")
            .replace("{provider_id}", &self.provider)
            .replace("{binding_id}", &self.binding)
            .replace("{webhook_id}", &self.webhook)
            .replace("{seq}", "1")
            .replace("{hosting_cluster_id}", "hosting_00000000000000000000000000")
            .replace("{verb}", verb)
    }

    fn all(&self) -> [&String; 9] {
        [
            &self.mesh,
            &self.cluster,
            &self.upgrade,
            &self.operation,
            &self.key,
            &self.provider,
            &self.binding,
            &self.webhook,
            &self.tenant,
        ]
    }
}

/// Trusts an identity provider and binds a role to a person.
async fn trust(fleet: &Fleet) {
    let (clock, created_at) = (&fleet.clock, fleet.clock.now());
    let provider = Provider {
        id: ProviderId(clock.new_uuid()),
        name: "company".into(),
        issuer: "https://login.example".into(),
        algorithms: vec!["RS256".into()],
        groups_claim: "groups".into(),
        required_claims: BTreeMap::new(),
        created_at,
    };
    let binding = Binding {
        id: BindingId(clock.new_uuid()),
        provider: provider.id,
        subject: Subject::User("vera".into()),
        grant: Grant {
            role: Role::Viewer,
            scope: Scope::Tenant,
        },
        created_at,
    };
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.identities()
        .create_identity_provider(&provider)
        .await
        .expect("a provider");
    tx.identities()
        .create_role_binding(&binding)
        .await
        .expect("a binding");
    tx.commit().await.expect("a commit");
}

/// Has events sent somewhere, and one on its way there.
async fn listen(fleet: &Fleet) {
    let id = WebhookId(fleet.clock.new_uuid());
    let new = NewWebhook {
        name: "hook".into(),
        url: "https://hooks.example".into(),
        kinds: vec!["webhook.test".into()],
        enabled: true,
    };
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.webhooks()
        .create_webhook(id, &new, b"a secret", fleet.clock.now())
        .await
        .expect("a webhook");
    tx.webhooks().push_test_event(id, fleet.clock.now());
    tx.commit().await.expect("a commit");
}

/// A victim with everything that a tenant can have, and an attacker who has as much.
struct Stage {
    service: Service,
    attacker: Fleet,
    victim: Ids,
    own: Ids,
}

impl Stage {
    async fn new() -> Self {
        let service = Service::new().await;
        service.key(Role::Owner).await;
        let attacker = service
            .fleet
            .for_new_tenant(TenantId(Uuid::from_u128(0xa77ac)), "attacker")
            .await;
        key(
            &attacker.db.api,
            attacker.clock.as_ref(),
            attacker.db.tenant,
            Role::Owner,
            &[],
        )
        .await;
        for fleet in [&service.fleet, &attacker] {
            trust(fleet).await;
            listen(fleet).await;
        }
        let (victim, own) = (Ids::of(&service.fleet).await, Ids::of(&attacker).await);
        Self {
            service,
            attacker,
            victim,
            own,
        }
    }

    async fn attacker(&self, role: Role, scopes: &[Scope]) -> String {
        key(
            &self.attacker.db.api,
            self.attacker.clock.as_ref(),
            self.attacker.db.tenant,
            role,
            scopes,
        )
        .await
    }

    /// Everything that the database holds of the victim, but for the traces of reading.
    async fn victims_rows(&self) -> String {
        let tenant = self.service.fleet.db.tenant.0;
        let mut all = String::new();
        for table in self
            .service
            .fleet
            .db
            .query_text(SUPERUSER, TENANT_TABLES)
            .await
        {
            let rows = format!(
                "SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {table} t WHERE tenant_id = '{tenant}'"
            );
            let digest = self.service.fleet.db.query_text(SUPERUSER, &rows).await;
            all += &format!("{table} {digest:?}\n");
        }
        all
    }
}

/// Every table that belongs to tenants.
const TENANT_TABLES: &str = "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relkind IN ('r', 'p') AND a.attname = 'tenant_id' AND c.relnamespace = 'public'::regnamespace ORDER BY 1";

/// Bodies with ids of another tenant, each with a body of unknown ids. The answers to both must be
/// equal.
fn bodies(route: &Route, own: &Ids, victim: &Ids, unknown: &Ids) -> Vec<(Value, Value)> {
    let pair = |make: &dyn Fn(&Ids) -> Value| vec![(make(victim), make(unknown))];
    match route.id.as_str() {
        "createMesh" => {
            pair(&|ids| json!({ "name": "m", "version": "1.25.1.1", "clusters": [ids.cluster] }))
        }
        "createApiKey" => {
            let mut all =
                pair(&|ids| json!({ "name": "k", "role": "viewer", "scopes": [ids.mesh] }));
            all.extend(pair(
                &|ids| json!({ "name": "k", "role": "viewer", "scopes": [ids.cluster] }),
            ));
            all
        }
        "createRoleBinding" => {
            let mut all = pair(
                &|ids| json!({ "provider_id": ids.provider, "subject": "eve", "role": "owner" }),
            );
            all.extend(pair(
                &|ids| json!({ "provider_id": own.provider, "subject": "eve", "role": "owner", "scope": ids.mesh }),
            ));
            all
        }
        _ => Vec::new(),
    }
}

/// Asks for everything with every id that is not the caller's, and answers how often.
async fn attack(stage: &Stage, key: &str, name: &str, malformed: &[Ids]) -> usize {
    let mut tried = 0;
    for route in routes() {
        let leak = |reply: &Reply| {
            let text = reply.body.to_string();
            stage
                .victim
                .all()
                .into_iter()
                .any(|id| text.contains(id.as_str()))
        };
        let call = async |path: &str, body: &Value| {
            stage
                .service
                .call(
                    &route.method,
                    path,
                    Some(key),
                    &[("If-Match", "\"0\"")],
                    Some(body),
                )
                .await
        };
        let name = format!("{} as {name}", route.id);
        if route.path.contains("_id}") {
            let theirs = call(&stage.victim.fill(&route.path, route.verb), &route.body).await;
            let absent = call(&Ids::unknown().fill(&route.path, route.verb), &route.body).await;
            assert_eq!(seen(&theirs), seen(&absent), "{name}");
            assert!(
                !theirs.status.is_success() && !leak(&theirs),
                "{name}: {theirs:?}"
            );
            for malformed in malformed {
                let reply = call(&malformed.fill(&route.path, route.verb), &route.body).await;
                assert!(reply.status.is_client_error(), "{name}: {reply:?}");
            }
            tried += 2 + malformed.len();
        } else if route.method == "GET" {
            let filtered = format!("?upgrade_id={}", stage.victim.upgrade);
            for query in ["", "?page_size=500", "?after=0", "?name=c1", &filtered] {
                let reply = call(&format!("{}{query}", route.path), &route.body).await;
                assert!(!leak(&reply), "{name}: {reply:?}");
                tried += 1;
            }
        }
        for (theirs, absent) in bodies(&route, &stage.own, &stage.victim, &Ids::unknown()) {
            let (theirs, absent) = (
                call(&route.path, &theirs).await,
                call(&route.path, &absent).await,
            );
            assert_eq!(seen(&theirs), seen(&absent), "{name}");
            assert!(!theirs.status.is_success(), "{name}: {theirs:?}");
            tried += 2;
        }
    }
    tried
}

#[tokio::test]
async fn nothing_of_another_tenant_is_seen_or_changed() {
    let stage = Stage::new().await;
    let before = stage.victims_rows().await;
    let mut tried = 0;
    for role in Role::ALL {
        let key = stage.attacker(role, &[]).await;
        // What is no id at all is refused before anybody's role is looked at: once is enough.
        let malformed = if role == Role::Owner {
            Ids::malformed()
        } else {
            Vec::new()
        };
        tried += attack(&stage, &key, role.as_str(), &malformed).await;
    }
    // A grant on what is not its tenant's is worth nothing, should there ever be one.
    let foreign = [
        stage.victim.mesh.parse().expect("a mesh"),
        stage.victim.cluster.parse().expect("a cluster"),
    ];
    let key = stage.attacker(Role::Operator, &foreign).await;
    tried += attack(&stage, &key, "operator of the victim's", &[]).await;
    assert_eq!(
        stage.victims_rows().await,
        before,
        "something of the victim's was changed"
    );
    assert!(tried > 400, "{tried}");
}

/// The attacker sees all objects of its own. An isolation that shows no caller anything would pass
/// the test above.
#[tokio::test]
async fn everybody_sees_their_own() {
    let stage = Stage::new().await;
    let own_tenant = stage.attacker.db.tenant;
    let (mine, theirs) = (
        stage.attacker(Role::Owner, &[]).await,
        stage.service.key(Role::Owner).await,
    );
    for (key, ids, others) in [
        (&mine, &stage.own, &stage.victim),
        (&theirs, &stage.victim, &stage.own),
    ] {
        let mut shown = BTreeSet::new();
        for route in routes()
            .iter()
            .filter(|route| route.method == "GET" && route.action.applies_to_tenant(own_tenant))
        {
            let reply = stage
                .service
                .call("GET", &ids.fill(&route.path, ""), Some(key), &[], None)
                .await;
            assert_eq!(reply.status, StatusCode::OK, "{}", route.id);
            let text = reply.body.to_string();
            assert!(
                others.all().iter().all(|id| !text.contains(id.as_str())),
                "{}",
                route.id
            );
            shown.extend(
                ids.all()
                    .into_iter()
                    .filter(|id| text.contains(id.as_str()))
                    .cloned(),
            );
        }
        assert_eq!(shown.len(), ids.all().len(), "{shown:?} of {ids:?}");
    }
}

/// What is gone sounds like what never was.
#[tokio::test]
async fn a_deleted_cluster_sounds_like_one_that_never_was() {
    let stage = Stage::new().await;
    let mine = stage.attacker(Role::Owner, &[]).await;
    let body = json!({ "name": "brief", "kubeconfig": "good" });
    let made = stage
        .service
        .call("POST", "/v1/clusters", Some(&mine), &[], Some(&body))
        .await;
    let cluster = made.body["cluster_id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/clusters/{cluster}");
    assert_eq!(
        stage
            .service
            .call("DELETE", &path, Some(&mine), &[], None)
            .await
            .status,
        StatusCode::NO_CONTENT
    );
    let deleted = Ids {
        cluster,
        ..Ids::unknown()
    };
    for route in routes()
        .iter()
        .filter(|route| route.path.contains("{cluster_id}"))
    {
        let call = async |ids: &Ids| {
            stage
                .service
                .call(
                    &route.method,
                    &ids.fill(&route.path, ""),
                    Some(&mine),
                    &[],
                    None,
                )
                .await
        };
        assert_eq!(
            seen(&call(&deleted).await),
            seen(&call(&Ids::unknown()).await),
            "{}",
            route.id
        );
    }
}

#[tokio::test]
async fn cursors_and_idempotency_keys_of_another_tenant_are_worth_nothing() {
    let stage = Stage::new().await;
    let (mine, theirs) = (
        stage.attacker(Role::Owner, &[]).await,
        stage.service.key(Role::Owner).await,
    );
    let page = stage
        .service
        .call("GET", "/v1/clusters?page_size=1", Some(&theirs), &[], None)
        .await;
    let token = page.body["next_page_token"]
        .as_str()
        .expect("a second cluster");
    let used = stage
        .service
        .call(
            "GET",
            &format!("/v1/clusters?page_token={token}"),
            Some(&mine),
            &[],
            None,
        )
        .await;
    assert_eq!(used.body["errors"][0]["pointer"], "?page_token");
    let (header, body) = (
        [("Idempotency-Key", "shared")],
        json!({ "name": "ci", "role": "viewer" }),
    );
    let first = stage
        .service
        .call("POST", "/v1/api-keys", Some(&theirs), &header, Some(&body))
        .await;
    let second = stage
        .service
        .call("POST", "/v1/api-keys", Some(&mine), &header, Some(&body))
        .await;
    assert_eq!(
        (first.status, second.status),
        (StatusCode::CREATED, StatusCode::CREATED),
        "each its own"
    );
    assert_ne!(first.body["secret"], second.body["secret"]);
}

/// The second wall stands around every table that it must stand around, the ones of tomorrow too.
#[tokio::test]
async fn every_tenant_table_is_behind_row_level_security() {
    let db = meshwright_testkit::TestDb::new().await;
    let tables = db.query_text(SUPERUSER, TENANT_TABLES).await;
    assert!(tables.len() >= 20, "{tables:?}");
    if std::env::var("MESHWRIGHT_TEST_WALLS").is_ok() {
        return;
    }
    let open = "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind IN ('r', 'p') AND a.attname = 'tenant_id' AND c.relnamespace = 'public'::regnamespace
          AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid
                   AND pg_get_expr(p.polqual, p.polrelid) LIKE '%mw.tenant%'))";
    assert_eq!(db.query_text(SUPERUSER, open).await, Vec::<String>::new());
    // Only workers and operators see past it. Workers see ids, times and numbers, and operators see
    // the list of tenants.
    let past = "SELECT c.relname::text || ' ' || p.polname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
        WHERE pg_get_expr(p.polqual, p.polrelid) NOT LIKE '%mw.tenant%' ORDER BY 1";
    let known = [
        "cluster_probes cluster_probes_engine",
        "probes probes_engine",
        "tenant_heads tenant_heads_engine",
        "tenants tenants_platform",
        "webhook_queue webhook_queue_engine",
        "work_queue work_queue_engine",
    ];
    assert_eq!(db.query_text(SUPERUSER, past).await, known);
}
