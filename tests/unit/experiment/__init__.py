"""Tests of p2pfl.experiment."""
