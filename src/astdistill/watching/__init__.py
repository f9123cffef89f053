"""A run as seen from another terminal; only its files are read."""
