-- A roll-out has a policy of waves and limits, and a person may retry or skip one of its workloads.
ALTER TABLE upgrades ADD COLUMN rollout jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN upgrades.rollout IS 'Waves and limits of the roll-out, as the caller gave them when the upgrade was planned.';

ALTER TABLE wishes ADD COLUMN item_number integer;
COMMENT ON COLUMN wishes.item_number IS 'Number of the only step that the wish is about; null where it is about the whole operation.';
