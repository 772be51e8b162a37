"""Tests of p2pfl.data."""
