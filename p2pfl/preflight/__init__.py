"""What a run will need, and whether its model can be trained, before any process starts."""
