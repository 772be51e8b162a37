"""Protocol without I/O: messages, and state machines of all processes of a run."""
