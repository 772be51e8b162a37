"""Tests of docs.generate."""
