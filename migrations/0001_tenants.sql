-- Tenants, their keys, and the tenant's place in the order of events.
CREATE TABLE tenants (
    tenant_id  uuid        NOT NULL CONSTRAINT tenants_pk PRIMARY KEY,
    name       text        NOT NULL CONSTRAINT tenants_name_unique UNIQUE,
    created_at timestamptz NOT NULL
);
COMMENT ON TABLE tenants IS 'The isolation and quota boundary.';

CREATE TABLE api_keys (
    tenant_id   uuid        NOT NULL CONSTRAINT api_keys_tenant_fk REFERENCES tenants,
    key_id      uuid        NOT NULL,
    name        text        NOT NULL,
    role        text        NOT NULL CONSTRAINT api_keys_role_check CHECK (role IN ('owner', 'operator', 'viewer', 'auditor')),
    secret_hmac bytea       NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz,
    revoked_at  timestamptz,
    CONSTRAINT api_keys_pk PRIMARY KEY (tenant_id, key_id),
    CONSTRAINT api_keys_name_unique UNIQUE (tenant_id, name)
);
COMMENT ON COLUMN api_keys.secret_hmac IS 'HMAC-SHA256 of the secret under the server''s pepper; the secret itself is shown once and never stored.';

CREATE TABLE tenant_heads (
    tenant_id uuid   NOT NULL CONSTRAINT tenant_heads_pk PRIMARY KEY CONSTRAINT tenant_heads_tenant_fk REFERENCES tenants,
    event_seq bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE tenant_heads IS 'Advanced by the last statement of each transaction that has events, so that number order is commit order.';

CREATE TABLE events (
    tenant_id    uuid        NOT NULL CONSTRAINT events_tenant_fk REFERENCES tenants,
    seq          bigint      NOT NULL,
    at           timestamptz NOT NULL,
    kind         text        NOT NULL,
    mesh_id      uuid,
    upgrade_id   uuid,
    operation_id uuid,
    body         jsonb       NOT NULL,
    CONSTRAINT events_pk PRIMARY KEY (tenant_id, seq)
);
COMMENT ON TABLE events IS 'What happened, for people and programs that follow along.';

CREATE TABLE idempotency_keys (
    tenant_id  uuid        NOT NULL CONSTRAINT idempotency_keys_tenant_fk REFERENCES tenants,
    route      text        NOT NULL,
    key        text        NOT NULL,
    body_hash  bytea       NOT NULL,
    status     integer     NOT NULL,
    location   text,
    answer     bytea       NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT idempotency_keys_pk PRIMARY KEY (tenant_id, route, key)
);
COMMENT ON COLUMN idempotency_keys.answer IS 'The stored answer, sealed: answers may hold a secret that is shown once.';
