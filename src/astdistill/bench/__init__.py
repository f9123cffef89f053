"""Speed and memory of what costs time here, beside the published way of doing it and the machine's own limit."""
