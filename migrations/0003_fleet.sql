-- Clusters and meshes of tenants.
CREATE TABLE clusters (
    tenant_id          uuid        NOT NULL CONSTRAINT clusters_tenant_fk REFERENCES tenants,
    cluster_id         uuid        NOT NULL,
    name               text        NOT NULL,
    state              text        NOT NULL CONSTRAINT clusters_state_check CHECK (state IN ('registering', 'ready', 'refused')),
    server             text        NOT NULL,
    kubeconfig         bytea       NOT NULL,
    kubernetes_version text,
    problem            jsonb,
    created_at         timestamptz NOT NULL,
    observed_at        timestamptz,
    CONSTRAINT clusters_pk PRIMARY KEY (tenant_id, cluster_id),
    CONSTRAINT clusters_name_unique UNIQUE (tenant_id, name)
);
COMMENT ON COLUMN clusters.kubeconfig IS 'Sealed. The submitted credential until registration has made one of our own.';

CREATE TABLE meshes (
    tenant_id          uuid        NOT NULL CONSTRAINT meshes_tenant_fk REFERENCES tenants,
    mesh_id            uuid        NOT NULL,
    name               text        NOT NULL,
    edition            text        NOT NULL CONSTRAINT meshes_edition_check CHECK (edition IN ('standard', 'enterprise', 'ultimate')),
    state              text        NOT NULL CONSTRAINT meshes_state_check CHECK (state IN ('creating', 'ready', 'deleting', 'deleted')),
    hosting_cluster_id uuid        NOT NULL CONSTRAINT meshes_hosting_fk REFERENCES hosting_clusters,
    authority          bytea       NOT NULL,
    created_at         timestamptz NOT NULL,
    CONSTRAINT meshes_pk PRIMARY KEY (tenant_id, mesh_id)
);
CREATE UNIQUE INDEX meshes_name_unique ON meshes (tenant_id, name) WHERE state <> 'deleted';
COMMENT ON COLUMN meshes.authority IS 'Sealed: key and certificates of the mesh''s own certificate authority.';

CREATE TABLE revisions (
    tenant_id uuid NOT NULL,
    mesh_id   uuid NOT NULL,
    name      text NOT NULL,
    part      text NOT NULL CONSTRAINT revisions_part_check CHECK (part IN ('current', 'target')),
    version   text NOT NULL CONSTRAINT revisions_release_fk REFERENCES releases,
    CONSTRAINT revisions_pk PRIMARY KEY (tenant_id, mesh_id, part),
    CONSTRAINT revisions_mesh_fk FOREIGN KEY (tenant_id, mesh_id) REFERENCES meshes
);
COMMENT ON TABLE revisions IS 'At most two control planes of a mesh: the current one, and the target of an upgrade.';
COMMENT ON COLUMN revisions.name IS 'The immutable slot name; in an in-place upgrade both parts share it.';

CREATE TABLE memberships (
    tenant_id  uuid    NOT NULL,
    mesh_id    uuid    NOT NULL,
    cluster_id uuid    NOT NULL,
    position   integer NOT NULL,
    CONSTRAINT memberships_pk PRIMARY KEY (tenant_id, mesh_id, cluster_id),
    CONSTRAINT memberships_position_unique UNIQUE (tenant_id, mesh_id, position),
    CONSTRAINT memberships_one_mesh UNIQUE (tenant_id, cluster_id),
    CONSTRAINT memberships_mesh_fk FOREIGN KEY (tenant_id, mesh_id) REFERENCES meshes,
    CONSTRAINT memberships_cluster_fk FOREIGN KEY (tenant_id, cluster_id) REFERENCES clusters
);
COMMENT ON COLUMN memberships.position IS '0 is the config cluster.';
COMMENT ON CONSTRAINT memberships_one_mesh ON memberships IS 'The default tag and validator are singletons of a cluster.';

CREATE TABLE mesh_slots (
    tenant_id uuid NOT NULL,
    mesh_id   uuid NOT NULL,
    holder    text NOT NULL,
    CONSTRAINT mesh_slots_pk PRIMARY KEY (tenant_id, mesh_id),
    CONSTRAINT mesh_slots_mesh_fk FOREIGN KEY (tenant_id, mesh_id) REFERENCES meshes
);
COMMENT ON TABLE mesh_slots IS 'Who changes a mesh right now: an upgrade from its start to its end, or a lone operation.';

CREATE TABLE surveys (
    tenant_id   uuid        NOT NULL,
    mesh_id     uuid        NOT NULL,
    observed_at timestamptz NOT NULL,
    survey      jsonb       NOT NULL,
    CONSTRAINT surveys_pk PRIMARY KEY (tenant_id, mesh_id),
    CONSTRAINT surveys_mesh_fk FOREIGN KEY (tenant_id, mesh_id) REFERENCES meshes
);
COMMENT ON TABLE surveys IS 'The last observation of a mesh; the API reads it and never asks a cluster.';
