"""Rules of partitioning training samples among peers."""
