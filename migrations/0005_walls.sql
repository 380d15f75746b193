-- The second wall between tenants: row-level security, forced, for every table that belongs to one.
DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['api_keys', 'tenant_heads', 'events', 'idempotency_keys', 'clusters', 'meshes', 'revisions',
        'memberships', 'mesh_slots', 'surveys', 'upgrades', 'operations', 'operation_items', 'item_facts', 'wishes', 'tenants']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY %I ON %I USING (tenant_id = nullif(current_setting(''mw.tenant'', true), '''')::uuid)',
            tenant_table || '_own', tenant_table);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO mw_api, mw_worker', tenant_table);
    END LOOP;
END $$;

-- The queue holds ids, times and counters only. Workers see all of it; the API sees its tenant's rows.
ALTER TABLE work_queue ENABLE ROW LEVEL SECURITY;
ALTER TABLE work_queue FORCE ROW LEVEL SECURITY;
CREATE POLICY work_queue_own ON work_queue USING (tenant_id = nullif(current_setting('mw.tenant', true), '')::uuid);
CREATE POLICY work_queue_engine ON work_queue TO mw_worker USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON work_queue TO mw_api, mw_worker;
ALTER TABLE probes ENABLE ROW LEVEL SECURITY;
ALTER TABLE probes FORCE ROW LEVEL SECURITY;
CREATE POLICY probes_own ON probes USING (tenant_id = nullif(current_setting('mw.tenant', true), '')::uuid);
CREATE POLICY probes_engine ON probes TO mw_worker USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON probes TO mw_api, mw_worker;

GRANT SELECT, INSERT, UPDATE ON hosting_clusters, releases, upgrade_policies TO mw_api, mw_worker;
