"""Tests of p2pfl."""
