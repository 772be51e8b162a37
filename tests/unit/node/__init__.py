"""Tests of p2pfl.node."""
