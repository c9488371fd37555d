"""The result folder and everything in it: written, read, migrated, exported."""
