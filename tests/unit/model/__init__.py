"""Tests of p2pfl.model."""
