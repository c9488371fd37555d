"""A fit from settings to a measured model, and everything that a fitted model says."""
