"""The checks of movies: measured in one pass, judged with a number."""
