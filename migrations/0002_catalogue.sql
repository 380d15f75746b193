-- What the operator offers to everybody.
CREATE TABLE hosting_clusters (
    hosting_cluster_id uuid        NOT NULL CONSTRAINT hosting_clusters_pk PRIMARY KEY,
    name               text        NOT NULL CONSTRAINT hosting_clusters_name_unique UNIQUE,
    kubeconfig         bytea       NOT NULL,
    created_at         timestamptz NOT NULL
);
COMMENT ON COLUMN hosting_clusters.kubeconfig IS 'Sealed.';

CREATE TABLE releases (
    version    text        NOT NULL CONSTRAINT releases_pk PRIMARY KEY,
    state      text        NOT NULL CONSTRAINT releases_state_check CHECK (state IN ('available', 'deprecated', 'withdrawn')),
    body       jsonb       NOT NULL,
    charts     bytea       NOT NULL,
    created_at timestamptz NOT NULL
);
COMMENT ON COLUMN releases.charts IS 'The release''s own charts as a tar archive; its SHA-256 is body.digest.';

CREATE TABLE upgrade_policies (
    name text  NOT NULL CONSTRAINT upgrade_policies_pk PRIMARY KEY,
    body jsonb NOT NULL
);
COMMENT ON TABLE upgrade_policies IS 'The numbers behind the upgrade rules, with their source.';

INSERT INTO upgrade_policies (name, body) VALUES ('default', '{
  "in_place_minors": 1, "canary_minors": 2, "canary_floor": "1.12.4.58", "canary_edition": "enterprise", "refuse_unsupported": false,
  "source": "Istio supports a control plane one minor ahead of its proxies; a canary may skip one because every proxy keeps its own istiod until it restarts"
}');
