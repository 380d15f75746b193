-- Credentials of clusters end by themselves and are renewed; clusters are looked after whether they have a mesh or not.
ALTER TABLE operations
    DROP CONSTRAINT operations_kind_check,
    ADD CONSTRAINT operations_kind_check CHECK (kind IN (
        'register_cluster', 'renew_credential', 'create_mesh', 'delete_mesh', 'restart', 'set_injection', 'precheck', 'deploy',
        'move', 'promote', 'restore', 'roll', 'retire', 'rollback'));
ALTER TABLE clusters
    ADD COLUMN uid text,
    ADD COLUMN submitted bytea,
    ADD COLUMN serial bigint NOT NULL DEFAULT 0,
    ADD COLUMN issued_at timestamptz,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN previous_until timestamptz,
    ADD COLUMN warned_serial bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN clusters.problem IS 'Why it was refused; of a cluster that is ready, why it does not answer now.';
COMMENT ON COLUMN clusters.uid IS 'The identity of its kube-system namespace: a renewal must not lead to another cluster.';
COMMENT ON COLUMN clusters.submitted IS 'Sealed. What was submitted for a renewal, until that has ended.';
COMMENT ON COLUMN clusters.serial IS 'Which credential of ours kubeconfig holds, from 1; 0 while it is the submitted one.';
COMMENT ON COLUMN clusters.previous_until IS 'From then on older credentials of ours are taken away; null once they are.';
COMMENT ON COLUMN clusters.warned_serial IS 'The credential that its owners were last warned about.';

CREATE TABLE cluster_probes (
    cluster_id uuid        NOT NULL CONSTRAINT cluster_probes_pk PRIMARY KEY,
    tenant_id  uuid        NOT NULL,
    due_at     timestamptz NOT NULL,
    failures   integer     NOT NULL DEFAULT 0
);
CREATE INDEX cluster_probes_due ON cluster_probes (due_at);
COMMENT ON TABLE cluster_probes IS 'When each cluster is to be looked after again, and how often in a row it did not answer. Ids, times and counters only.';
ALTER TABLE cluster_probes ENABLE ROW LEVEL SECURITY;
ALTER TABLE cluster_probes FORCE ROW LEVEL SECURITY;
CREATE POLICY cluster_probes_own ON cluster_probes USING (tenant_id = nullif(current_setting('mw.tenant', true), '')::uuid);
CREATE POLICY cluster_probes_engine ON cluster_probes TO mw_worker USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON cluster_probes TO mw_api, mw_worker;

CREATE INDEX operations_cluster ON operations (tenant_id, cluster_id, operation_id) WHERE cluster_id IS NOT NULL;
