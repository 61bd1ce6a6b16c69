"""Where bytes and records live."""
