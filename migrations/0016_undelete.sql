-- A deleted mesh can be brought back for a while: with its members, its version and its authority.
ALTER TABLE meshes
    ADD COLUMN deleted_at     timestamptz,
    ADD COLUMN former_members uuid[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN meshes.former_members IS 'Of a deleted mesh: the clusters that it had, the config cluster first.';
COMMENT ON COLUMN meshes.authority IS 'Sealed: key and certificates of the mesh''s own certificate authority. Empty once a deleted mesh cannot be brought back.';
