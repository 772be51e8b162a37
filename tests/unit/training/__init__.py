"""Tests of p2pfl.training."""
