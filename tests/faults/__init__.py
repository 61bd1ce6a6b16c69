"""Durability is shown, not claimed: kills, power cuts, slow disks, and nodes with planted faults.

`FAULT_SECONDS` sets how long each of the big tests goes on (60), `FAULT_LONG_SECONDS` the same for
those marked `long` (900), `FAULT_SEED` the seed, which every run prints. The schedule of sends and
kills follows from the seed; what the machine makes of it does not.
"""
