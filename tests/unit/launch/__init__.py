"""Tests of p2pfl.launch."""
