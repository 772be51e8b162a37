"""Helpers without dependencies: text, files, signals, temporary folders."""
