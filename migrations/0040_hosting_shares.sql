-- A hosting cluster that does not answer must not hold every place of a worker, so the queue says which one an operation needs.
ALTER TABLE work_queue ADD COLUMN hosting_cluster_id uuid;
COMMENT ON COLUMN work_queue.hosting_cluster_id IS 'The hosting cluster that the operation needs, where its mesh has one: one hosting cluster has at most three quarters of a worker''s places.';
UPDATE work_queue q SET hosting_cluster_id = m.hosting_cluster_id
    FROM operations o JOIN meshes m ON m.tenant_id = o.tenant_id AND m.mesh_id = o.mesh_id
    WHERE o.tenant_id = q.tenant_id AND o.operation_id = q.operation_id;
