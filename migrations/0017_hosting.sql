-- Operators remove hosting clusters that no mesh runs in.
GRANT DELETE ON hosting_clusters TO mw_platform;
