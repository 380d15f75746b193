-- A refused credential says that our account is gone only after the cluster has accepted the account's removal.
ALTER TABLE clusters
    ADD COLUMN removal_accepted_at timestamptz,
    ADD CONSTRAINT clusters_removal_check CHECK (removal_accepted_at IS NULL OR removal_began_at IS NOT NULL);
COMMENT ON COLUMN clusters.removal_accepted_at IS 'When the cluster was first seen to have accepted the removal of our account: from then on a repeated refusal of our credential says that it is gone. Null again once a credential was renewed.';
COMMENT ON COLUMN clusters.removal_began_at IS 'When our account was first asked to be removed. Null again once a credential was renewed.';
