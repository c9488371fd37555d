"""One HTML page and its figures, from a result and its comparisons alone."""
