-- What a precheck found stays readable after it was accepted.
ALTER TABLE upgrades
    ADD COLUMN findings             jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN findings_accepted_by text,
    ADD COLUMN findings_accepted_at timestamptz;
COMMENT ON COLUMN upgrades.findings IS 'What the last precheck found, whether or not it stopped the upgrade.';
COMMENT ON COLUMN upgrades.findings_accepted_by IS 'The caller who accepted the findings, as the audit log names them; policy where accept_warnings did.';
COMMENT ON COLUMN upgrades.findings_accepted_at IS 'When the findings were accepted.';
