-- What was noticed in a cluster that its users should know of, without standing in the way of anything.
ALTER TABLE clusters ADD COLUMN findings jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN clusters.findings IS 'The findings of the last look at it, such as a webhook whose server does not answer; empty for none.';
