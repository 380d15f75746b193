-- The edition of a mesh is granted to its tenant by the operator.
ALTER TABLE tenants
    ADD COLUMN edition text NOT NULL DEFAULT 'enterprise'
        CONSTRAINT tenants_edition_check CHECK (edition IN ('standard', 'enterprise', 'ultimate'));
COMMENT ON COLUMN tenants.edition IS 'The highest edition that new meshes of the tenant can have. The default is for replicas of the release before, which do not name it.';

-- Tenants that exist keep what they could choose without asking, which was enterprise, and what they use already. The owner of
-- the tables is behind the wall as well, and has to look into one tenant after the other.
DO $$
DECLARE
    own uuid;
BEGIN
    ALTER TABLE tenants NO FORCE ROW LEVEL SECURITY;
    FOR own IN SELECT tenant_id FROM tenants LOOP
        PERFORM set_config('mw.tenant', own::text, true);
        UPDATE tenants SET edition = 'ultimate' WHERE tenant_id = own
            AND EXISTS (SELECT FROM meshes WHERE tenant_id = own AND edition = 'ultimate' AND state <> 'deleted');
    END LOOP;
    ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
END $$;
