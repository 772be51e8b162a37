"""Tests of whole commands, of the documents and of the other programs of the project."""
