"""Tests of p2pfl.report."""
