"""Documentation: pages, and the code that generates their tables and diagrams."""
