"""End-to-end tests: whole commands, documents, and the project's other programs."""
