-- A mesh keeps the values of istiod's switches that it began with, whatever a newer release does when nothing is set.
CREATE FUNCTION pg_temp.switch_defaults(version text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object(
        'MAX_CONNECTIONS_PER_SOCKET_EVENT_LOOP', jsonb_build_object('value', CASE WHEN minor < 26 THEN '0' ELSE '1' END, 'source', source),
        'ENABLE_NATIVE_SIDECARS', jsonb_build_object('value', CASE WHEN minor < 27 THEN 'false' ELSE 'auto' END, 'source', source),
        'PILOT_ENABLE_ABSOLUTE_FQDN_VHOST_DOMAIN', jsonb_build_object('value', CASE WHEN minor < 27 THEN 'false' ELSE 'true' END, 'source', source),
        'ENABLE_PROXY_FIND_POD_BY_IP', jsonb_build_object('value', CASE WHEN minor < 27 THEN 'true' ELSE 'false' END, 'source', source))
    FROM (SELECT split_part(version, '.', 2)::integer AS minor, 'pilot/pkg of Istio 1.' || split_part(version, '.', 2) AS source) AS release
$$;
CREATE FUNCTION pg_temp.switch_values(version text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_object_agg(key, value -> 'value') FROM jsonb_each(pg_temp.switch_defaults(version))
$$;

UPDATE releases SET body = jsonb_set(body, '{switches}', pg_temp.switch_defaults(version));

ALTER TABLE revisions ADD COLUMN switches jsonb;
-- Rows of every tenant are written here, once.
ALTER TABLE revisions NO FORCE ROW LEVEL SECURITY;
ALTER TABLE upgrades NO FORCE ROW LEVEL SECURITY;
-- What runs has the defaults of its own release, so nothing changes under it.
UPDATE revisions SET switches = pg_temp.switch_values(version);
-- A target that nothing was deployed of yet begins with what its mesh has.
UPDATE revisions AS target SET switches = current.switches
FROM revisions AS current, upgrades
WHERE target.part = 'target' AND current.part = 'current'
    AND current.tenant_id = target.tenant_id AND current.mesh_id = target.mesh_id
    AND upgrades.tenant_id = target.tenant_id AND upgrades.mesh_id = target.mesh_id
    AND (upgrades.state IN ('planned', 'prechecking', 'blocked')
        OR (upgrades.state = 'paused' AND upgrades.state_body #>> '{from,state}' IN ('planned', 'prechecking', 'blocked')));
ALTER TABLE revisions FORCE ROW LEVEL SECURITY;
ALTER TABLE upgrades FORCE ROW LEVEL SECURITY;
ALTER TABLE revisions
    ALTER COLUMN switches SET NOT NULL,
    -- A server of the release before writes rows without it: nothing is pinned then.
    ALTER COLUMN switches SET DEFAULT '{}',
    ADD CONSTRAINT revisions_switches_check CHECK (jsonb_typeof(switches) = 'object');
COMMENT ON COLUMN revisions.switches IS 'The value of each pinned environment variable of istiod. A target takes those of the current revision.';
