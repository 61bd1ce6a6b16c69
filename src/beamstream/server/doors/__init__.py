"""Doors: sockets on one side, the meaning of requests on the other."""
