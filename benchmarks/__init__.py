"""Benchmarks: what a node does per second, how long it makes readers wait, and what it costs.

``python -m benchmarks`` measures rates, delays and processor time beside a raw loopback socket;
``python -m benchmarks.scale`` measures memory and the cost of reading long streams. How they
measure is told in docs/how-to/benchmarks.md.
"""
