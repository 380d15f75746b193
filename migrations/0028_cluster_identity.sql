-- A cluster belongs to one registration, whichever tenant made it. Row-level security hides other tenants' rows, and the
-- unique constraint holds across them all the same.
ALTER TABLE clusters
    ADD COLUMN identity text,
    ADD COLUMN former bytea;
COMMENT ON COLUMN clusters.identity IS 'The uid of its kube-system namespace, held from before anything is written into the cluster until its row goes. Null: not known yet, or an older registration holds the same cluster.';
COMMENT ON COLUMN clusters.former IS 'Sealed. The credential of ours before the present one, until the cluster was seen to refuse it.';

-- Of rows that share a cluster the oldest holds it. The others stay, and their next renewal says why they cannot.
-- The table's owner is subject to forced row-level security and would see no row. Longer texts than 64 characters are no
-- identity of a cluster, and would not fit into an index.
ALTER TABLE clusters NO FORCE ROW LEVEL SECURITY;
UPDATE clusters SET identity = uid
    WHERE length(uid) BETWEEN 1 AND 64
        AND NOT EXISTS (SELECT FROM clusters older WHERE older.uid = clusters.uid AND older.cluster_id < clusters.cluster_id);
ALTER TABLE clusters FORCE ROW LEVEL SECURITY;
ALTER TABLE clusters ADD CONSTRAINT clusters_identity_unique UNIQUE (identity);
COMMENT ON CONSTRAINT clusters_identity_unique ON clusters IS 'Two registrations of one cluster would take away each other''s accounts, tags and root certificates.';
