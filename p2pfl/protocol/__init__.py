"""The exchange without I/O: messages, and the state machines of peer, coordinator and client."""
