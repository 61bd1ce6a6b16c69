"""Public helpers for tests: conformance suites, simulated detectors, a node in a process."""
