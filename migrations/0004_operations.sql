-- Upgrades, operations, their plans and facts, and the queue.
CREATE TABLE upgrades (
    tenant_id    uuid        NOT NULL,
    upgrade_id   uuid        NOT NULL,
    mesh_id      uuid        NOT NULL,
    from_version text        NOT NULL,
    to_version   text        NOT NULL,
    choice       jsonb       NOT NULL,
    state        text        NOT NULL CONSTRAINT upgrades_state_check CHECK (state IN (
        'planned', 'prechecking', 'blocked', 'deploying', 'verifying', 'promoting', 'rolling', 'holding', 'retiring', 'paused',
        'rolling_back', 'succeeded', 'rolled_back', 'cancelled', 'abandoned')),
    state_body   jsonb       NOT NULL,
    transitions  bigint      NOT NULL DEFAULT 0,
    operation_id uuid,
    created_at   timestamptz NOT NULL,
    ended_at     timestamptz,
    CONSTRAINT upgrades_pk PRIMARY KEY (tenant_id, upgrade_id),
    CONSTRAINT upgrades_mesh_fk FOREIGN KEY (tenant_id, mesh_id) REFERENCES meshes
);
COMMENT ON COLUMN upgrades.transitions IS 'Rises with every change of state: the ETag that people press buttons with.';
COMMENT ON COLUMN upgrades.operation_id IS 'The stage under way, or the last one.';

CREATE TABLE operations (
    tenant_id    uuid        NOT NULL CONSTRAINT operations_tenant_fk REFERENCES tenants,
    operation_id uuid        NOT NULL,
    kind         text        NOT NULL CONSTRAINT operations_kind_check CHECK (kind IN (
        'register_cluster', 'create_mesh', 'delete_mesh', 'restart', 'set_injection', 'precheck', 'deploy', 'move', 'promote', 'roll',
        'retire', 'rollback')),
    mesh_id      uuid,
    cluster_id   uuid,
    upgrade_id   uuid,
    arguments    jsonb       NOT NULL,
    state        text        NOT NULL CONSTRAINT operations_state_check CHECK (state IN (
        'queued', 'running', 'waiting', 'pausing', 'paused', 'cancelling', 'succeeded', 'failed', 'cancelled', 'superseded')),
    state_body   jsonb       NOT NULL,
    waves        jsonb,
    waiting_for  text,
    created_at   timestamptz NOT NULL,
    started_at   timestamptz,
    ended_at     timestamptz,
    CONSTRAINT operations_pk PRIMARY KEY (tenant_id, operation_id)
);
CREATE INDEX operations_upgrade ON operations (tenant_id, upgrade_id) WHERE upgrade_id IS NOT NULL;
COMMENT ON COLUMN operations.waiting_for IS 'What the worker last saw that it waits for, in words for the user.';
COMMENT ON COLUMN operations.waves IS 'Titles and widths of the plan''s waves; null until a worker has built the plan.';

CREATE TABLE operation_items (
    tenant_id    uuid    NOT NULL,
    operation_id uuid    NOT NULL,
    number       integer NOT NULL,
    wave         integer NOT NULL,
    step         jsonb   NOT NULL,
    CONSTRAINT operation_items_pk PRIMARY KEY (tenant_id, operation_id, number),
    CONSTRAINT operation_items_operation_fk FOREIGN KEY (tenant_id, operation_id) REFERENCES operations
);
COMMENT ON TABLE operation_items IS 'The steps of a plan. Written once, never changed.';

CREATE TABLE item_facts (
    tenant_id    uuid        NOT NULL,
    operation_id uuid        NOT NULL,
    number       integer     NOT NULL,
    ordinal      bigint      GENERATED ALWAYS AS IDENTITY,
    epoch        bigint      NOT NULL,
    at           timestamptz NOT NULL,
    fact         jsonb       NOT NULL,
    CONSTRAINT item_facts_pk PRIMARY KEY (tenant_id, operation_id, number, ordinal),
    CONSTRAINT item_facts_item_fk FOREIGN KEY (tenant_id, operation_id, number) REFERENCES operation_items
);
COMMENT ON TABLE item_facts IS 'What became of each step. Only ever added to.';
COMMENT ON COLUMN item_facts.ordinal IS 'Orders the facts of one step, which one worker at a time writes.';

CREATE TABLE work_queue (
    operation_id uuid        NOT NULL CONSTRAINT work_queue_pk PRIMARY KEY,
    tenant_id    uuid        NOT NULL,
    due_at       timestamptz NOT NULL,
    owner        text,
    lease_until  timestamptz,
    epoch        bigint      NOT NULL DEFAULT 0,
    wish_seq     bigint      NOT NULL DEFAULT 0,
    seen_seq     bigint      NOT NULL DEFAULT 0
);
CREATE INDEX work_queue_free ON work_queue (due_at) WHERE owner IS NULL;
CREATE INDEX work_queue_held ON work_queue (lease_until) WHERE owner IS NOT NULL;
COMMENT ON TABLE work_queue IS 'One narrow row for each operation that has not ended. Ids, times and counters only: every worker sees all of it.';
COMMENT ON COLUMN work_queue.epoch IS 'Rises with every claim; every write of a worker names the epoch that it claimed.';

CREATE TABLE wishes (
    tenant_id    uuid        NOT NULL,
    operation_id uuid        NOT NULL,
    seq          bigint      NOT NULL,
    wish         text        NOT NULL CONSTRAINT wishes_wish_check CHECK (wish IN ('pause', 'resume', 'retry', 'cancel')),
    at           timestamptz NOT NULL,
    CONSTRAINT wishes_pk PRIMARY KEY (tenant_id, operation_id, seq),
    CONSTRAINT wishes_operation_fk FOREIGN KEY (tenant_id, operation_id) REFERENCES operations
);
COMMENT ON TABLE wishes IS 'What people asked of an operation, in order. The API adds them; workers read them.';

CREATE TABLE probes (
    mesh_id     uuid        NOT NULL CONSTRAINT probes_pk PRIMARY KEY,
    tenant_id   uuid        NOT NULL,
    due_at      timestamptz NOT NULL
);
CREATE INDEX probes_due ON probes (due_at);
COMMENT ON TABLE probes IS 'When each mesh is to be observed again. A claim is a due time moved ahead. Ids and times only.';
