"""Sparse, interpretable dynamics in cell-imaging video."""

__version__ = "0.1.0"
