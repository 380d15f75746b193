-- A mesh whose creation or deletion did not come to its end has a state of its own, from which both can be asked for again.
ALTER TABLE meshes
    DROP CONSTRAINT meshes_state_check,
    ADD CONSTRAINT meshes_state_check CHECK (state IN ('creating', 'ready', 'failed', 'deleting', 'deleted')),
    ADD COLUMN problem jsonb,
    ADD CONSTRAINT meshes_problem_check CHECK (state <> 'failed' OR problem IS NOT NULL);
COMMENT ON COLUMN meshes.problem IS 'Why a failed mesh is failed. A deletion keeps it, so that a deletion that touched nothing can go back to where it began.';
