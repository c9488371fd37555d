"""`LatentVAR`: from settings to a fitted, measured and compared model."""
