-- Events are sent to addresses that tenants name (Standard Webhooks). What is to be sent is written with the event itself.
CREATE TABLE webhooks (
    tenant_id     uuid        NOT NULL CONSTRAINT webhooks_tenant_fk REFERENCES tenants,
    webhook_id    uuid        NOT NULL,
    name          text        NOT NULL,
    url           text        NOT NULL,
    kinds         text[]      NOT NULL,
    enabled       boolean     NOT NULL DEFAULT true,
    stopped       text        CONSTRAINT webhooks_stopped_check CHECK (stopped IN ('gone', 'failing')),
    secret        bytea       NOT NULL,
    former_secret bytea,
    former_until  timestamptz,
    delivered_at  timestamptz,
    generation    bigint      NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL,
    CONSTRAINT webhooks_pk PRIMARY KEY (tenant_id, webhook_id),
    CONSTRAINT webhooks_name_unique UNIQUE (tenant_id, name)
);
COMMENT ON COLUMN webhooks.stopped IS 'Why we have switched it off; null after somebody has switched it on again.';
COMMENT ON COLUMN webhooks.delivered_at IS 'When something last arrived there.';

CREATE TABLE deliveries (
    tenant_id   uuid        NOT NULL,
    webhook_id  uuid        NOT NULL,
    seq         bigint      NOT NULL,
    state       text        NOT NULL DEFAULT 'pending' CONSTRAINT deliveries_state_check CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts    integer     NOT NULL DEFAULT 0,
    due_at      timestamptz,
    created_at  timestamptz NOT NULL,
    last_at     timestamptz,
    last_status integer,
    last_error  text,
    CONSTRAINT deliveries_pk PRIMARY KEY (tenant_id, webhook_id, seq),
    CONSTRAINT deliveries_webhook_fk FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks
);
CREATE INDEX deliveries_due ON deliveries (tenant_id, webhook_id, due_at) WHERE state = 'pending';
COMMENT ON TABLE deliveries IS 'Which event goes to which webhook; written in the transaction of the event, so that none is lost.';
COMMENT ON COLUMN deliveries.due_at IS 'When it is tried next; null unless pending.';

CREATE TABLE webhook_queue (
    webhook_id uuid        NOT NULL CONSTRAINT webhook_queue_pk PRIMARY KEY,
    tenant_id  uuid        NOT NULL,
    due_at     timestamptz,
    failures   integer     NOT NULL DEFAULT 0
);
CREATE INDEX webhook_queue_due ON webhook_queue (due_at) WHERE due_at IS NOT NULL;
COMMENT ON TABLE webhook_queue IS 'When something is to be sent to each webhook. A claim is a due time moved ahead. Ids, times and counters only.';

ALTER TABLE tenant_heads ADD COLUMN webhooks integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN tenant_heads.webhooks IS 'How many webhooks are switched on: with none, an event costs nothing more.';

ALTER TABLE webhooks ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks FORCE ROW LEVEL SECURITY;
CREATE POLICY webhooks_own ON webhooks USING (tenant_id = nullif(current_setting('mw.tenant', true), '')::uuid);
ALTER TABLE deliveries ENABLE ROW LEVEL SECURITY;
ALTER TABLE deliveries FORCE ROW LEVEL SECURITY;
CREATE POLICY deliveries_own ON deliveries USING (tenant_id = nullif(current_setting('mw.tenant', true), '')::uuid);
ALTER TABLE webhook_queue ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_queue FORCE ROW LEVEL SECURITY;
CREATE POLICY webhook_queue_own ON webhook_queue USING (tenant_id = nullif(current_setting('mw.tenant', true), '')::uuid);
CREATE POLICY webhook_queue_engine ON webhook_queue TO mw_worker USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks, deliveries, webhook_queue TO mw_api, mw_worker;
