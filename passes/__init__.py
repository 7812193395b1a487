"""The built-in passes, one a file."""
