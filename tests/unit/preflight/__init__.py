"""Tests of p2pfl.preflight."""
