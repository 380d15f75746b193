-- A key belongs to whoever sent it: a stored answer may hold a secret that only they were shown.
TRUNCATE idempotency_keys;
ALTER TABLE idempotency_keys
    ADD COLUMN principal text NOT NULL,
    ADD COLUMN etag      text,
    ALTER COLUMN status DROP NOT NULL,
    ALTER COLUMN answer DROP NOT NULL,
    DROP CONSTRAINT idempotency_keys_pk,
    ADD CONSTRAINT idempotency_keys_pk PRIMARY KEY (tenant_id, principal, route, key);
CREATE INDEX idempotency_keys_age ON idempotency_keys (tenant_id, created_at);
COMMENT ON COLUMN idempotency_keys.status IS 'Null only inside the transaction that does the work: the row is taken first and answered last.';
COMMENT ON INDEX idempotency_keys_age IS 'Rows are kept for a day.';
