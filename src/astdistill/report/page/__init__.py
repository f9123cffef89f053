"""The page that a run ends in: one HTML file."""
