-- A person may decide that a roll-out goes on without the workloads that it could not restart.
ALTER TABLE wishes DROP CONSTRAINT wishes_wish_check;
ALTER TABLE wishes ADD CONSTRAINT wishes_wish_check CHECK (wish IN ('pause', 'resume', 'retry', 'cancel', 'skip'));
