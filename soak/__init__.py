"""Soak tests: long trials of the README's guarantees, beside the test suite."""
