"""Tests of p2pfl.algorithms."""
