"""One experiment as a value, the way through it, benchmark settings by name, and what it costs."""
