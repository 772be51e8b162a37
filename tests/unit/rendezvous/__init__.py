"""Tests of p2pfl.rendezvous."""
