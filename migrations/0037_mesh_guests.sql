-- A planned or a complete upgrade keeps a mesh's slot, and namespaces can join the mesh meanwhile.
ALTER TABLE mesh_slots ADD COLUMN guest text;
COMMENT ON COLUMN mesh_slots.guest IS 'An operation on the data plane that runs while an upgrade that touches nothing holds the slot; the upgrade waits for its end.';

-- A server of the release before deletes a mesh's slot with whatever operation ends. While a guest runs, that ends the guest.
CREATE FUNCTION keep_slot_of_guest() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE mesh_slots SET guest = NULL WHERE tenant_id = OLD.tenant_id AND mesh_id = OLD.mesh_id;
    RETURN NULL;
END $$;
CREATE TRIGGER mesh_slots_guest BEFORE DELETE ON mesh_slots
    FOR EACH ROW WHEN (OLD.guest IS NOT NULL) EXECUTE FUNCTION keep_slot_of_guest();
