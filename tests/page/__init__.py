"""The page in a real browser, before a node at work."""
