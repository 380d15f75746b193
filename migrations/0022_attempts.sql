-- Claims that record nothing are counted, so that every operation ends; expensive kinds have a share of a worker's places.
ALTER TABLE work_queue
    ADD COLUMN claims integer NOT NULL DEFAULT 0 CONSTRAINT work_queue_claims_check CHECK (claims >= 0),
    ADD COLUMN errors integer NOT NULL DEFAULT 0 CONSTRAINT work_queue_errors_check CHECK (errors >= 0),
    ADD COLUMN costly boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN work_queue.claims IS 'Claims in a row, the present one included, that recorded no fact and were not given back in order.';
COMMENT ON COLUMN work_queue.errors IS 'How many of these claims ended in an error of ours.';
COMMENT ON COLUMN work_queue.costly IS 'True for kinds that talk to a cluster which has not proved itself: they have a share of their own.';

-- A worker walks along due times and leaves out what it may not take; held rows are as few as there are places.
DROP INDEX work_queue_free;
CREATE INDEX work_queue_due ON work_queue (due_at);

ALTER TABLE probes ADD COLUMN failures integer NOT NULL DEFAULT 0 CONSTRAINT probes_failures_check CHECK (failures >= 0);
COMMENT ON COLUMN probes.failures IS 'How often in a row the mesh was not observed: it is looked at ever more rarely.';
