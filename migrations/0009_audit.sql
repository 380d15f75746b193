-- The audit log: each entry holds the digest of the one before it, so that nothing can be changed, left out or put in.
ALTER TABLE tenant_heads
    ADD COLUMN audit_seq  bigint NOT NULL DEFAULT 0,
    ADD COLUMN audit_hash bytea  NOT NULL DEFAULT decode(repeat('00', 32), 'hex');
COMMENT ON COLUMN tenant_heads.audit_hash IS 'Digest of the last audit entry; zeros before the first one.';

CREATE TABLE audit_entries (
    tenant_id   uuid        NOT NULL CONSTRAINT audit_entries_tenant_fk REFERENCES tenants,
    seq         bigint      NOT NULL,
    at          timestamptz NOT NULL,
    actor       text        NOT NULL,
    action      text        NOT NULL,
    target      text        NOT NULL,
    request_id  text,
    before_hash bytea,
    after_hash  bytea,
    hash        bytea       NOT NULL,
    CONSTRAINT audit_entries_pk PRIMARY KEY (tenant_id, seq)
);
COMMENT ON TABLE audit_entries IS 'Every call that changed something, and everything changed in a cluster.';
COMMENT ON COLUMN audit_entries.before_hash IS 'SHA-256 of what was there before; null where there was nothing.';
COMMENT ON COLUMN audit_entries.hash IS 'SHA-256 over the hash before it and every other column.';
ALTER TABLE audit_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_entries FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_entries_own ON audit_entries USING (tenant_id = nullif(current_setting('mw.tenant', true), '')::uuid);
-- Entries are added and read. Nobody changes or removes one.
GRANT SELECT, INSERT ON audit_entries TO mw_api, mw_worker;
