-- A planned or a complete upgrade keeps a mesh's slot, and namespaces can join the mesh meanwhile.
ALTER TABLE mesh_slots ADD COLUMN guest text;
COMMENT ON COLUMN mesh_slots.guest IS 'An operation on the data plane that runs while an upgrade that touches nothing holds the slot; the upgrade waits for its end.';
