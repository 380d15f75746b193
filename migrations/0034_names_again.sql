-- The name of a key that was revoked, and of a tenant that was deleted, can be used again.
ALTER TABLE api_keys DROP CONSTRAINT api_keys_name_unique;
CREATE UNIQUE INDEX api_keys_name_unique ON api_keys (tenant_id, name) WHERE revoked_at IS NULL;
COMMENT ON INDEX api_keys_name_unique IS 'Only keys that were not revoked have their name to themselves.';

ALTER TABLE tenants DROP CONSTRAINT tenants_name_unique;
CREATE UNIQUE INDEX tenants_name_unique ON tenants (name) WHERE state <> 'deleted';
COMMENT ON INDEX tenants_name_unique IS 'Only tenants that were not deleted have their name to themselves.';
