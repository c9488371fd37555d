"""One reader a file format, and one table of readers (`formats.py`)."""
