# Each target sets up what it needs (tools/setup.sh).  ARGS="..." goes to its command.

BIN = .venv/bin
LINT = .venv-lint/bin
# What a shell may have set for other work.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH

.PHONY: help demo test lint bench bench-failover bench-scale clean

help:
	@echo 'make demo    the outage after a failover with nothing, the arping loop, the agent (1 min)'
	@echo 'make test    all tests but those of test-packages; what this machine cannot run is'
	@echo '             skipped with its reason'
	@echo 'make test-packages   the ways in: packages, chroots, booted systems (20 min)'
	@echo 'make lint    ruff and mypy'
	@echo 'make bench   what the agent costs and how fast it is, beside its peers'
	@echo 'make bench-scale  what a fleet costs its network, simulated (5 min)'
	@echo 'make bench-failover  outages behind a real bond, in virtual machines (10 min)'
	@echo 'make pyz     dist/garp-agent.pyz: one file for a bare Python 3.9 or newer'
	@echo 'make deb     dist/*.deb, with debhelper, dh-python, pandoc, python3-click and python3-yaml'
	@echo 'make man     build/man: the man pages'
	@echo 'make clean   remove what these made'
	@echo
	@echo 'ARGS="..." is handed on: make demo ARGS=--quick, make test ARGS=tests/core'

demo:
	@tools/setup.sh demo
	@$(BIN)/python -m bench.demo $(ARGS)

# Two workers with a file at a time each: a file's tests share machines, and many of them wait.
# The other interpreters come first, so that the last line is the summary of all tests.
test:
	@tools/setup.sh test
	@others=0; [ -n '$(ARGS)' ] || tools/every-python.sh || others=1; \
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS) && exit $$others

lint:
	@tools/setup.sh lint
	$(LINT)/ruff check
	$(LINT)/ruff format --check
	$(LINT)/mypy --explicit-package-bases agent/garp_agent bench tests

bench:
	@tools/setup.sh bench
	@mkdir -p build
	@$(BIN)/python -m bench.performance --json build/performance.json $(ARGS)

bench-failover:
	@tools/setup.sh plot
	@.venv-plot/bin/python -m bench.failover_vm $(ARGS)

bench-scale:
	@tools/setup.sh plot
	@.venv-plot/bin/python -m bench.fleet $(ARGS)

clean:
	rm -rf .venv .venv-* .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# -- ways in (docs/install) ----------------------------------------------------------------

.PHONY: pyz deb man test-packages

# One file for a bare Python 3.9 or newer; compiled for the interpreters that are here.
pyz:
	python3 tools/build_pyz.py

deb:
	python3 tools/build_deb.py

man:
	@tools/setup.sh man
	$(BIN)/python tools/build_man.py

# What takes a packager's tools and some minutes: packages, cloud-init, RPM, OpenRC in chroots,
# and a booted system of each kind.
test-packages:
	@tools/setup.sh packaging
	GARP_AGENT_PACKAGES=1 $(BIN)/python -m pytest tests/packaging $(ARGS)
