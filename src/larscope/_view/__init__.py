"""`larscope view`: the report's page, served on this machine with what a file cannot hold. Needs the extra `view`."""
