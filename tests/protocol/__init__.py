"""Tests of the state machines, in memory."""
