"""Beamstream's peers doing the same work in the same run: the second table of the benchmark.

``python -m benchmarks.peers`` measures, for each peer and size, the rate, the delay at half of
that rate and the processor time, beside a raw loopback socket. How is told in
docs/how-to/benchmarks.md.

A peer is a module with a tuple ``PEERS`` (see `interface.Peer`) and two functions, ``sender`` and
``receiver``, that are called in worker processes of their own; `registry` lists the modules.
Whatever imports a peer's library does so inside these functions: the bench itself has none of them.
"""
