"""Long trials of what the README promises: not part of the tests."""
