-- An operation that ended before its goal may have left writes on their way to clusters. The next operation of its mesh has
-- them refused before it does anything else.
ALTER TABLE operations
    ADD COLUMN unfenced boolean NOT NULL DEFAULT false,
    ADD COLUMN writer_epoch bigint,
    ADD COLUMN writer_until timestamptz,
    ADD CONSTRAINT operations_writer_check CHECK (num_nulls(writer_epoch, writer_until) IN (0, 2));
CREATE INDEX operations_unfenced ON operations (tenant_id, mesh_id) WHERE unfenced;
COMMENT ON COLUMN operations.unfenced IS 'True from an end before the goal until a later operation of the mesh has fenced every step that was started and not done.';
COMMENT ON COLUMN operations.writer_epoch IS 'The claim that was alive when the operation was ended from outside; null once its worker has said that it stopped.';
COMMENT ON COLUMN operations.writer_until IS 'When the lease of that claim is over: until then its worker may still write what no version fences.';
