-- Each tenant's secrets are sealed with a data key of its own, which is stored wrapped. Without it they are lost for good.
CREATE TABLE tenant_keys (
    tenant_id  uuid        NOT NULL CONSTRAINT tenant_keys_tenant_fk REFERENCES tenants,
    version    integer     NOT NULL CONSTRAINT tenant_keys_version_check CHECK (version > 0),
    wrapped    bytea       NOT NULL,
    wrapper    text        NOT NULL,
    created_at timestamptz NOT NULL,
    retired_at timestamptz,
    CONSTRAINT tenant_keys_pk PRIMARY KEY (tenant_id, version)
);
COMMENT ON TABLE tenant_keys IS 'Data keys. Deleting a tenant''s rows erases everything that was sealed for it, in every backup too.';
COMMENT ON COLUMN tenant_keys.wrapper IS 'What wrapped it: the fingerprint of a master key, or the name of a key in a key service.';
COMMENT ON COLUMN tenant_keys.retired_at IS 'When a newer version took over. What is sealed from then on is sealed with that one.';
ALTER TABLE tenant_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_keys_own ON tenant_keys USING (tenant_id = nullif(current_setting('mw.tenant', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_keys TO mw_api, mw_worker;

-- Heads are numbers and digests: workers anchor all of them outside the database.
CREATE POLICY tenant_heads_engine ON tenant_heads FOR SELECT TO mw_worker USING (true);

-- Tenants that are there already have no key yet, and their secrets are sealed with the server's own: a worker sees to that
-- when it starts.
ALTER TABLE tenant_heads ADD COLUMN needs_key boolean NOT NULL DEFAULT true;
ALTER TABLE tenant_heads ALTER COLUMN needs_key SET DEFAULT false;
COMMENT ON COLUMN tenant_heads.needs_key IS 'Made before tenants had keys of their own, and not seen to yet.';
