-- A promotion that fails restores what it wrote (requirement B5).
ALTER TABLE upgrades
    DROP CONSTRAINT upgrades_state_check,
    ADD CONSTRAINT upgrades_state_check CHECK (state IN (
        'planned', 'prechecking', 'blocked', 'deploying', 'verifying', 'promoting', 'restoring', 'rolling', 'holding', 'retiring',
        'paused', 'rolling_back', 'succeeded', 'rolled_back', 'cancelled', 'abandoned'));
ALTER TABLE operations
    DROP CONSTRAINT operations_kind_check,
    ADD CONSTRAINT operations_kind_check CHECK (kind IN (
        'register_cluster', 'create_mesh', 'delete_mesh', 'restart', 'set_injection', 'precheck', 'deploy', 'move', 'promote',
        'restore', 'roll', 'retire', 'rollback'));
