-- Operations that were queued before 0040 do not say yet which hosting cluster they need. The table's owner is subject to
-- forced row-level security, so the statement of 0040 saw no row. Rows of every tenant are written here, once.
ALTER TABLE work_queue NO FORCE ROW LEVEL SECURITY;
ALTER TABLE operations NO FORCE ROW LEVEL SECURITY;
ALTER TABLE meshes NO FORCE ROW LEVEL SECURITY;
UPDATE work_queue q SET hosting_cluster_id = m.hosting_cluster_id
    FROM operations o JOIN meshes m ON m.tenant_id = o.tenant_id AND m.mesh_id = o.mesh_id
    WHERE o.tenant_id = q.tenant_id AND o.operation_id = q.operation_id AND q.hosting_cluster_id IS NULL;
ALTER TABLE work_queue FORCE ROW LEVEL SECURITY;
ALTER TABLE operations FORCE ROW LEVEL SECURITY;
ALTER TABLE meshes FORCE ROW LEVEL SECURITY;
