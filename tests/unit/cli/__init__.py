"""Tests of p2pfl.cli."""
