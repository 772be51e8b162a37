"""File formats of graphs: a reader for each, and the writers."""
