"""Tests of p2pfl.protocol."""
