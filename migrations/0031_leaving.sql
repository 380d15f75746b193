-- Clusters are left by an operation, and every end says what stays in clusters.
ALTER TABLE operations
    DROP CONSTRAINT operations_kind_check,
    ADD CONSTRAINT operations_kind_check CHECK (kind IN (
        'register_cluster', 'renew_credential', 'deregister_cluster', 'create_mesh', 'delete_mesh', 'restart', 'set_injection',
        'precheck', 'deploy', 'move', 'promote', 'restore', 'roll', 'retire', 'rollback')),
    ADD COLUMN leftovers jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN operations.leftovers IS 'What stays in clusters once a deletion or deregistration is over, with the commands that remove it.';
ALTER TABLE meshes
    ADD COLUMN leftovers jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN meshes.leftovers IS 'Of a deleted mesh: the leftovers of its deletion.';
ALTER TABLE clusters
    ADD COLUMN leaving uuid,
    ADD COLUMN removal_began_at timestamptz;
COMMENT ON COLUMN clusters.leaving IS 'The operation that deregisters it; null while none does.';
COMMENT ON COLUMN clusters.removal_began_at IS 'When our account was first asked to be removed: from then on a refusal of our credential says that it is gone.';
