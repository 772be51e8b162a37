"""Benchmarks of p2pfl, one command each, such as `python -m benchmarks.exchange`.

Each prints a table and its bars, and writes JSON.
"""
