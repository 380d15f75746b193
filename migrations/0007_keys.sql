-- Keys that reach less than the whole tenant, that rotate with an overlap, and that say when they were last used.
ALTER TABLE api_keys
    ADD COLUMN scopes       text[]      NOT NULL DEFAULT '{}',
    ADD COLUMN former_hmac  bytea,
    ADD COLUMN former_until timestamptz,
    ADD COLUMN last_used_at timestamptz,
    ADD CONSTRAINT api_keys_former_check CHECK ((former_hmac IS NULL) = (former_until IS NULL));
COMMENT ON COLUMN api_keys.scopes IS 'Ids of the meshes and clusters that the role holds for; none means the whole tenant.';
COMMENT ON COLUMN api_keys.former_hmac IS 'The secret before the last rotation, which is still accepted until former_until.';
COMMENT ON COLUMN api_keys.last_used_at IS 'To the minute: a key in constant use is written once a minute, not once a request.';
