"""Speed and memory compared with the published way of doing the same work: `make bench`. Not part of the package."""
