"""Tests of p2pfl.topology.formats."""
