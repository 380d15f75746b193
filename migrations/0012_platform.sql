-- Whoever operates the service: a tenant of their own, and a role that sees the list of tenants and nothing inside them.
ALTER TABLE tenants
    ADD COLUMN state      text        NOT NULL DEFAULT 'active'
        CONSTRAINT tenants_state_check CHECK (state IN ('active', 'suspended', 'deleted')),
    ADD COLUMN quotas     jsonb       NOT NULL DEFAULT '{}',
    ADD COLUMN generation bigint      NOT NULL DEFAULT 1;
COMMENT ON COLUMN tenants.state IS 'Of a suspended or deleted tenant no credential is accepted.';
COMMENT ON COLUMN tenants.quotas IS 'How much of each thing there may be, where it differs from what everybody may have.';
COMMENT ON COLUMN tenants.generation IS 'Rises with every change by an operator: the ETag.';

GRANT SELECT, INSERT, UPDATE ON tenants TO mw_platform;
CREATE POLICY tenants_platform ON tenants TO mw_platform USING (true);
-- A tenant reads its own row and does not set its own quotas.
REVOKE INSERT, UPDATE, DELETE ON tenants FROM mw_api, mw_worker;
-- The catalogue is the operators'.
REVOKE INSERT, UPDATE ON hosting_clusters, releases, upgrade_policies FROM mw_api;
GRANT SELECT, INSERT, UPDATE ON hosting_clusters, releases, upgrade_policies TO mw_platform;

-- The owner of the tables is behind the wall as well.
SELECT set_config('mw.tenant', '00000000-0000-0000-0000-000000000000', true);
INSERT INTO tenants (tenant_id, name, created_at) VALUES ('00000000-0000-0000-0000-000000000000', 'platform', now());
INSERT INTO tenant_heads (tenant_id) VALUES ('00000000-0000-0000-0000-000000000000');
