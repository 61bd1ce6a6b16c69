"""Programs that talk to a node."""
