"""Tests of p2pfl.util."""
