//! Tests that a member's new address or authority reaches the control planes, with a restart only
//! where they need one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine as _;
use meshwright_kubernetes::resolver::Resolver;
use meshwright_kubernetes::{AddressPolicy, Charts, Credential, KubernetesMesh, MemberCluster};
use meshwright_model::edition::Edition;
use meshwright_model::release::{KubernetesRange, Quirk, Release, ReleaseState};
use serde_json::{Value, json};

use super::fake::{FakeCluster, NAME, rules};
use super::owners::{clusters, clusters_with_policy, member_cluster};

const HOSTED: &str = "/api/v1/namespaces/demo-00000001";

fn release(text: &str, quirks: Vec<Quirk>) -> Release {
    let version: meshwright_model::Version = text.parse().expect(text);
    Release {
        state: ReleaseState::Available,
        hub: "lab".into(),
        tag: version.community_version(),
        digest: String::new(),
        supported_until: None,
        kubernetes: KubernetesRange {
            min: 29,
            tested_max: 33,
            source: "test".into(),
        },
        quirks,
        switches: BTreeMap::new(),
        released_on: None,
        channels: BTreeSet::new(),
        minimum_edition: Edition::Standard,
        notes: String::new(),
        version,
    }
}

fn deployment(revision: &str) -> String {
    format!("/apis/apps/v1/namespaces/demo-00000001/deployments/istiod-{revision}")
}

/// Mesh of two members with both revisions up. 1.25.1 accepts a changed remote secret while it
/// runs; 1.27.9 hangs.
struct Stage {
    hosting: FakeCluster,
    config: FakeCluster,
    remote: FakeCluster,
}

impl Stage {
    async fn new() -> Self {
        let hosting = FakeCluster::new("hosting").await;
        let (config, remote) = (FakeCluster::new("c1").await, FakeCluster::new("c2").await);
        let labels = json!({ "meshwright.dev/mesh": "demo-00000001" });
        for revision in ["1-25-1", "1-27-9"] {
            let inventory = json!({ "metadata": { "name": "x" }, "data": { "value": format!("{}.1", revision.replace('-', ".")) } });
            hosting.put(
                &format!("{HOSTED}/configmaps/meshwright-control-plane-{revision}"),
                inventory,
            );
            let name = format!("istiod-{revision}");
            let labels = json!({ "app": "istiod", "istio.io/rev": revision });
            hosting.put(
                &deployment(revision),
                json!({ "metadata": { "name": name, "labels": labels }, "spec": { "template": {} } }),
            );
        }
        for name in [
            "istio-kubeconfig-1-25-1",
            "istio-kubeconfig-1-27-9",
            "istio-remote-secret-c2",
        ] {
            hosting.put(
                &format!("{HOSTED}/secrets/{name}"),
                json!({ "metadata": { "name": name, "labels": labels } }),
            );
        }
        Self {
            hosting,
            config,
            remote,
        }
    }

    fn clusters(&self, config: &FakeCluster, remote: &FakeCluster) -> KubernetesMesh {
        let members: Vec<MemberCluster> = vec![
            member_cluster(config, "c1", 1),
            member_cluster(remote, "c2", 1),
        ];
        clusters(&self.hosting, members, Self::releases())
    }

    fn releases() -> Vec<(Release, Charts)> {
        let releases = [
            release("1.25.1.1", Vec::new()),
            release("1.27.9.1", vec![Quirk::RemoteSecretDeadlock]),
        ];
        releases
            .map(|release| {
                (
                    release,
                    Charts::unpack(&[0; 1024]).expect("an empty archive"),
                )
            })
            .into()
    }

    /// Until nothing changes any more; a few rounds are enough.
    async fn settle(&self, clusters: &KubernetesMesh, member: &str) {
        let member = member.parse().expect("a name");
        for _ in 0..3 {
            if clusters.renew_access(&member).await.expect("an answer") {
                return;
            }
        }
        panic!("it does not settle");
    }

    fn kubeconfig(&self, secret: &str, key: &str) -> Value {
        let secret = self
            .hosting
            .object(&format!("{HOSTED}/secrets/{secret}"))
            .expect("a secret");
        let text = secret["data"][key]
            .as_str()
            .expect("a kubeconfig")
            .to_owned();
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .expect("base64");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    fn notes(&self) -> [Value; 2] {
        let of = |revision| {
            self.hosting
                .object(&deployment(revision))
                .expect("a Deployment")["spec"]["template"]
                .clone()
        };
        ["1-25-1", "1-27-9"].map(of)
    }
}

#[tokio::test]
async fn a_new_address_of_a_member_reaches_running_control_planes_and_restarts_those_that_would_hang()
 {
    let stage = Stage::new().await;
    stage
        .settle(&stage.clusters(&stage.config, &stage.remote), "c2")
        .await;
    let before = stage.notes();
    let moved = stage.remote.another_address().await;
    let clusters = stage.clusters(&stage.config, &moved);
    stage.settle(&clusters, "c2").await;
    let server =
        stage.kubeconfig("istio-remote-secret-c2", "c2")["clusters"][0]["cluster"]["server"]
            .clone();
    assert_eq!(server, format!("https://{}", moved.address));
    let after = stage.notes();
    assert_eq!(after[0], before[0], "1.25.1 takes it as it runs");
    assert_ne!(
        after[1], before[1],
        "1.27.9 would hang over the changed secret"
    );
    stage.hosting.writes();
    assert_eq!(
        clusters.renew_access(&"c2".parse().expect("a name")).await,
        Ok(true)
    );
    assert!(stage.hosting.writes().is_empty(), "once is enough");
}

#[tokio::test]
async fn control_planes_follow_a_member_that_moves_while_its_credential_is_good() {
    let stage = Stage::new().await;
    let c2 = "c2".parse().expect("a name");
    stage
        .settle(&stage.clusters(&stage.config, &stage.remote), "c2")
        .await;
    let moved = stage.remote.another_address().await;
    let clusters = stage.clusters(&stage.config, &moved);
    let before = stage.notes();
    assert_eq!(clusters.follow_member_address(&c2).await, Ok(()));
    let server =
        stage.kubeconfig("istio-remote-secret-c2", "c2")["clusters"][0]["cluster"]["server"]
            .clone();
    assert_eq!(server, format!("https://{}", moved.address));
    assert_ne!(
        stage.notes()[1],
        before[1],
        "1.27.9 would hang over the changed secret"
    );
    stage.hosting.writes();
    assert_eq!(clusters.follow_member_address(&c2).await, Ok(()));
    assert!(stage.hosting.writes().is_empty(), "once is enough");
}

/// A name server that gives one address at a time.
#[derive(Debug)]
struct OneAtATime(Mutex<SocketAddr>);

#[async_trait]
impl Resolver for OneAtATime {
    async fn resolve_host(&self, _host: &str, _port: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(vec![*self.0.lock().expect("no holder panics")])
    }
}

#[tokio::test]
async fn an_address_that_a_name_server_leaves_out_for_once_is_kept_while_the_member_answers_there()
{
    let stage = Stage::new().await;
    let (c2, other) = (
        "c2".parse().expect("a name"),
        stage.remote.another_address().await,
    );
    let own = stage.remote.administrator();
    let server = format!("https://{NAME}:6443");
    let credential = Credential::new(&server, own.authority, own.identity).expect("a credential");
    let names = Arc::new(OneAtATime(Mutex::new(stage.remote.address)));
    let clusters = || {
        let policy = AddressPolicy {
            resolver: names.clone(),
            ..rules()
        };
        let members = vec![
            member_cluster(&stage.config, "c1", 1),
            MemberCluster {
                credential: credential.clone(),
                ..member_cluster(&stage.remote, "c2", 1)
            },
        ];
        clusters_with_policy(&stage.hosting, members, Stage::releases(), policy)
    };
    stage.settle(&clusters(), "c2").await;
    let told = || {
        stage.kubeconfig("istio-remote-secret-c2", "c2")["clusters"][0]["cluster"]["server"].clone()
    };
    let (first, notes) = (told(), stage.notes());
    assert_eq!(first, format!("https://{}", stage.remote.address));
    *names.0.lock().expect("no holder panics") = other.address;
    assert_eq!(clusters().follow_member_address(&c2).await, Ok(()));
    assert_eq!(
        (told(), stage.notes()),
        (first, notes),
        "the member still answers there"
    );
    stage.remote.close();
    assert_eq!(clusters().follow_member_address(&c2).await, Ok(()));
    assert_eq!(told(), format!("https://{}", other.address));
}

#[tokio::test]
async fn a_new_authority_of_the_config_cluster_restarts_every_control_plane_once() {
    let stage = Stage::new().await;
    stage
        .settle(&stage.clusters(&stage.config, &stage.remote), "c1")
        .await;
    let before = stage.notes();
    // Another certificate at another address, for the same cluster.
    let renewed = FakeCluster::new("c1").await;
    stage
        .settle(&stage.clusters(&renewed, &stage.remote), "c1")
        .await;
    for (secret, number) in [
        ("istio-kubeconfig-1-25-1", 0),
        ("istio-kubeconfig-1-27-9", 1),
    ] {
        let held = stage.kubeconfig(secret, "config")["clusters"][0]["cluster"]["certificate-authority-data"].clone();
        let authority =
            base64::engine::general_purpose::STANDARD.encode(&renewed.administrator().authority);
        assert_eq!(held, authority);
        assert_ne!(
            stage.notes()[number],
            before[number],
            "istiod reads it when it starts"
        );
    }
}

#[tokio::test]
async fn a_renewal_that_changes_neither_address_nor_authority_restarts_nothing() {
    let stage = Stage::new().await;
    let clusters = stage.clusters(&stage.config, &stage.remote);
    for member in ["c1", "c2"] {
        stage.settle(&clusters, member).await;
    }
    let before = stage.notes();
    for member in ["c1", "c2"] {
        stage
            .settle(&stage.clusters(&stage.config, &stage.remote), member)
            .await;
    }
    assert_eq!(stage.notes(), before);
}

#[tokio::test]
async fn a_member_without_an_address_that_may_be_called_keeps_its_open_ones_and_stops_the_limits_of_no_other()
 {
    const POLICY: &str =
        "/apis/networking.k8s.io/v1/namespaces/demo-00000001/networkpolicies/meshwright-limits";
    let stage = Stage::new().await;
    let rule = |address: &str, port: u16| {
        let to = json!([{ "ipBlock": { "cidr": format!("{address}/32") } }]);
        json!({ "to": to, "ports": [{ "protocol": "TCP", "port": port }] })
    };
    let (kept, other) = (rule("127.0.0.9", 6443), rule("127.0.0.9", 1));
    let policy =
        json!({ "metadata": { "name": "meshwright-limits" }, "spec": { "egress": [kept, other] } });
    stage.hosting.put(POLICY, policy);
    let inventory =
        json!({ "metadata": { "name": "meshwright-limits" }, "data": { "value": "1" } });
    stage
        .hosting
        .put(&format!("{HOSTED}/configmaps/meshwright-limits"), inventory);
    let gone = stage.remote.administrator();
    let credential = Credential::new("https://10.9.9.9:6443", gone.authority, gone.identity)
        .expect("a credential");
    let gone = MemberCluster {
        credential,
        ..member_cluster(&stage.remote, "c2", 1)
    };
    let clusters = clusters(
        &stage.hosting,
        vec![member_cluster(&stage.config, "c1", 1), gone],
        Vec::new(),
    );
    assert_eq!(clusters.renew_limits().await, Ok(()));
    let egress = stage.hosting.object(POLICY).expect("a policy")["spec"]["egress"].clone();
    assert_eq!(
        egress,
        json!([rule("127.0.0.1", stage.config.address.port()), kept])
    );
    stage.hosting.writes();
    assert_eq!(clusters.renew_limits().await, Ok(()));
    assert!(stage.hosting.writes().is_empty(), "once is enough");
}
