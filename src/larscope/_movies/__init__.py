"""Movies as runs of a session: read, checked, prepared."""
