"""Tests of p2pfl.transport."""
