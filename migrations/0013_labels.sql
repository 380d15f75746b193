-- What users write on their things: names for people, labels, and a guard against deleting the wrong one.
ALTER TABLE meshes
    ADD COLUMN display_name        text    NOT NULL DEFAULT '',
    ADD COLUMN deletion_protection boolean NOT NULL DEFAULT false,
    ADD COLUMN generation          bigint  NOT NULL DEFAULT 1;
COMMENT ON COLUMN meshes.generation IS 'Rises with every change of what users may write: the ETag. What is observed does not count.';
ALTER TABLE clusters
    ADD COLUMN display_name        text    NOT NULL DEFAULT '',
    ADD COLUMN generation          bigint  NOT NULL DEFAULT 1;

CREATE TABLE labels (
    tenant_id uuid NOT NULL CONSTRAINT labels_tenant_fk REFERENCES tenants,
    object_id uuid NOT NULL,
    key       text NOT NULL,
    value     text NOT NULL,
    CONSTRAINT labels_pk PRIMARY KEY (tenant_id, object_id, key)
);
CREATE INDEX labels_by_value ON labels (tenant_id, key, value, object_id);
COMMENT ON TABLE labels IS 'In a table of their own: containment in JSON cannot use its index behind row-level security.';
ALTER TABLE labels ENABLE ROW LEVEL SECURITY;
ALTER TABLE labels FORCE ROW LEVEL SECURITY;
CREATE POLICY labels_own ON labels USING (tenant_id = nullif(current_setting('mw.tenant', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON labels TO mw_api, mw_worker;
