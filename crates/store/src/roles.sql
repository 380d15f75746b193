DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['mw_owner', 'mw_api', 'mw_worker', 'mw_platform'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another process made it at the same moment
            END;
        END IF;
    END LOOP;
    -- The API takes this role up for a single transaction, on an operator's behalf; it does not have its rights otherwise.
    ALTER ROLE mw_platform NOLOGIN;
    ALTER ROLE mw_api NOINHERIT;
    ALTER ROLE mw_worker NOINHERIT;
    GRANT mw_platform TO mw_api, mw_worker;
END $$;
