"""`larscope view`: the interactive viewer of a result, served on this machine. Needs the extra `view`."""
