"""Tests of p2pfl.config."""
