-- A mesh whose creation or deletion did not come to its end has a state of its own, from which both can be asked for again.
ALTER TABLE meshes
    DROP CONSTRAINT meshes_state_check,
    ADD CONSTRAINT meshes_state_check CHECK (state IN ('creating', 'ready', 'failed', 'deleting', 'deleted')),
    ADD COLUMN problem jsonb,
    ADD CONSTRAINT meshes_problem_check CHECK (state <> 'failed' OR problem IS NOT NULL);
COMMENT ON COLUMN meshes.problem IS 'Why a failed mesh is failed. A deletion keeps it, so that a deletion that touched nothing can go back to where it began.';

-- Meshes that an ended creation or deletion has left behind are failed from now on.
ALTER TABLE meshes NO FORCE ROW LEVEL SECURITY;
ALTER TABLE operations NO FORCE ROW LEVEL SECURITY;
UPDATE meshes SET state = 'failed', problem = jsonb_build_object(
    'code', CASE state WHEN 'creating' THEN 'creation_cancelled' ELSE 'deletion_cancelled' END,
    'message', 'The operation that changed the mesh ended before it was done.',
    'hint', 'Build it with `meshwright mesh retry`, or remove what is there with `meshwright mesh delete`.')
WHERE state IN ('creating', 'deleting') AND NOT EXISTS (
    SELECT FROM operations WHERE operations.tenant_id = meshes.tenant_id AND operations.mesh_id = meshes.mesh_id
        AND operations.kind IN ('create_mesh', 'delete_mesh') AND operations.ended_at IS NULL);
ALTER TABLE meshes FORCE ROW LEVEL SECURITY;
ALTER TABLE operations FORCE ROW LEVEL SECURITY;
