"""What p2pfl costs. Each module is one command (`python -m benchmarks.exchange`): a table, bars, and JSON."""
