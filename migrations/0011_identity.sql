-- People and programs that come from an identity provider, and what they may do.
CREATE TABLE identity_providers (
    tenant_id       uuid        NOT NULL CONSTRAINT identity_providers_tenant_fk REFERENCES tenants,
    provider_id     uuid        NOT NULL,
    name            text        NOT NULL,
    issuer          text        NOT NULL,
    algorithms      text[]      NOT NULL,
    groups_claim    text        NOT NULL,
    required_claims jsonb       NOT NULL,
    created_at      timestamptz NOT NULL,
    CONSTRAINT identity_providers_pk PRIMARY KEY (tenant_id, provider_id),
    CONSTRAINT identity_providers_name_unique UNIQUE (tenant_id, name),
    CONSTRAINT identity_providers_issuer_unique UNIQUE (tenant_id, issuer),
    CONSTRAINT identity_providers_algorithms_check CHECK (cardinality(algorithms) > 0)
);
COMMENT ON TABLE identity_providers IS 'Issuers of OpenID Connect tokens that a tenant trusts. A token names its tenant in its audience.';
COMMENT ON COLUMN identity_providers.algorithms IS 'Fixed: a token with another algorithm is refused before its signature is looked at.';
COMMENT ON COLUMN identity_providers.required_claims IS 'Claims that every token must have with exactly these values.';

CREATE TABLE role_bindings (
    tenant_id    uuid        NOT NULL,
    binding_id   uuid        NOT NULL,
    provider_id  uuid        NOT NULL,
    subject_kind text        NOT NULL CONSTRAINT role_bindings_subject_kind_check CHECK (subject_kind IN ('subject', 'group')),
    subject      text        NOT NULL,
    role         text        NOT NULL CONSTRAINT role_bindings_role_check CHECK (role IN ('owner', 'operator', 'viewer', 'auditor')),
    scope        text        NOT NULL,
    created_at   timestamptz NOT NULL,
    CONSTRAINT role_bindings_pk PRIMARY KEY (tenant_id, binding_id),
    CONSTRAINT role_bindings_unique UNIQUE (tenant_id, provider_id, subject_kind, subject, role, scope),
    CONSTRAINT role_bindings_provider_fk FOREIGN KEY (tenant_id, provider_id) REFERENCES identity_providers ON DELETE CASCADE
);
COMMENT ON COLUMN role_bindings.scope IS 'tenant, or the id of a mesh or a cluster.';
DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['identity_providers', 'role_bindings'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY %I ON %I USING (tenant_id = nullif(current_setting(''mw.tenant'', true), '''')::uuid)',
            tenant_table || '_own', tenant_table);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO mw_api, mw_worker', tenant_table);
    END LOOP;
END $$;
