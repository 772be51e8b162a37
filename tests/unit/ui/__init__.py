"""Tests of p2pfl.ui."""
