"""What every other package may use: texts, files, signals, temporary folders, plugins."""
