"""Tests that start real processes, or swarms over real sockets."""
