"""What a fit and its comparisons leave on disk, and how it is read again."""
