# Every target makes its own virtual environment. ARGS="..." hands more arguments on:
#   make demo ARGS="--rate 500"       make test ARGS="tests/wire -k token"

.PHONY: help demo test test-long check bench clean

help:
	@echo "make demo       a node, a simulated detector and a pipeline that finds its hits, live"
	@echo "make test       all tests that take less than some minutes, with the official clients"
	@echo "make test-long  all tests"
	@echo "make check      style, types, import contracts, sizes"
	@echo "make bench      rates and delays, beside a raw socket and other streaming systems"
	@echo "make clean      remove environments and caches"

demo:
	@tools/setup run beamstream demo $(ARGS)

test: check
	@tools/setup test pytest -n 2 --dist loadfile -m "not long" $(ARGS)

test-long: check
	@tools/setup test pytest $(ARGS)

check:
	@tools/setup test ruff check src tests benchmarks tools
	@tools/setup test ruff format --check src tests benchmarks tools
	@tools/setup test mypy
	@tools/setup test lint-imports
	@tools/setup test python tools/check_sizes.py src tests benchmarks tools
	@if command -v npm >/dev/null 2>&1; then cd ui && npm run --silent check && npm --silent test; \
	else echo "check: the page's sources are not checked, npm is not there"; fi

bench:
	@tools/setup test python -m benchmarks $(ARGS)

clean:
	rm -rf ui/node_modules ui/.tests src/beamstream/monitor/web
	rm -rf .venv .venv-test .venv-peers build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find src tests benchmarks tools -name __pycache__ -prune -exec rm -rf {} +
