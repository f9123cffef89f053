"""Speed and memory beside the published way of doing the same work: `make bench`. Not a part of the package."""
