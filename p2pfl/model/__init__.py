"""Networks, and their weights as one flat vector."""
