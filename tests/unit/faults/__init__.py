"""Tests of p2pfl.faults."""
