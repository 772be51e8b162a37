"""Tests of p2pfl.run."""
