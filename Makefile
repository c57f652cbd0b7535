# Each target first installs what it needs (tools/setup.sh).  ARGS="..." goes to its command.

BIN = .venv/bin
LINT = .venv-lint/bin
# A shell may have set these for other work.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH

.PHONY: help demo test test-xen lint mutation bench bench-failover bench-late-paths bench-outages \
	bench-pyz bench-scale bench-growth bench-peers bench-tick pictures screenshots recording clean

help:
	@echo 'make demo    the outage after a failover with nothing, the arping loop, the agent (1 min)'
	@echo 'make test    all tests except those of test-packages and test-xen; skips with a'
	@echo '             reason what this machine cannot run'
	@echo 'make test-packages   installation: packages, chroots, booted systems (45 min)'
	@echo 'make test-xen  guests of a Xen host, PV and PVH (10 min)'
	@echo 'make lint    ruff, mypy, codespell, twine, check-wheel-contents, check-jsonschema'
	@echo 'make mutation  how many small faults in the cores their tests find (10 min)'
	@echo 'make bench   cost and speed of the agent, beside its peers'
	@echo 'make bench-tick  calls and system calls of one tick and of one hint (1 min)'
	@echo 'make bench-pyz  first frame and memory of the single file on each Python (3 min)'
	@echo 'make bench-scale  what a fleet costs its network, simulated (5 min)'
	@echo 'make bench-growth  how the cost grows with addresses, links, guests, claims (6 min)'
	@echo 'make bench-peers  cost and outages of the agent, keepalived, Open vSwitch, arping (8 min)'
	@echo 'make bench-outages  outages by situation: nothing, the arping loop, the agent (10 min)'
	@echo 'make bench-failover  outages behind a real bond, in virtual machines (20 min)'
	@echo 'make bench-late-paths  outages where a path works later than its carrier (25 min)'
	@echo 'make pictures  the pictures of the README, from docs/measurements.md'
	@echo 'make screenshots  docs/pictures: doctor, list and the page of a drill, from real runs'
	@echo 'make recording  docs/demo.svg: the demo as an animated picture'
	@echo 'make pyz     dist/garp-agent.pyz: one file for a bare Python 3.6 or newer'
	@echo 'make deb     dist/*.deb, with debhelper, dh-python, pandoc, python3-click and python3-yaml'
	@echo 'make release dist/release: all of these, with checksums and an SBOM'
	@echo 'make man     build/man: the man pages'
	@echo 'make clean   remove everything that these made'
	@echo
	@echo 'ARGS="..." is passed on: make demo ARGS=--quick, make test ARGS=tests/guest'

demo:
	@tools/setup.sh demo
	@$(BIN)/python -m bench.demo $(ARGS)

# Two workers, because many tests wait.  A worker takes a whole file: its tests share machines.
# The other interpreters come first, so that the last line is the summary of all tests.
test:
	@tools/setup.sh test
	@others=0; [ -n '$(ARGS)' ] || tools/every-python.sh || others=1; \
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS) && exit $$others

# A Xen host for each kind of guest, and one with libvirt and systemd.
test-xen:
	@tools/setup.sh test
	GARP_AGENT_XEN=1 $(BIN)/python -m pytest tests/vm/test_xen*.py $(ARGS)

lint:
	@tools/setup.sh lint
	$(LINT)/ruff check
	$(LINT)/ruff format --check
	$(LINT)/mypy --explicit-package-bases agent/garp_agent bench tests
	git ls-files -z | xargs -0 $(LINT)/codespell
	$(LINT)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	rm -rf build/lint && $(LINT)/python -m build --outdir build/lint . >/dev/null
	$(LINT)/python -m twine check --strict build/lint/*
	$(LINT)/check-wheel-contents build/lint/*.whl

# Sets have the same order in each run.
mutation:
	@tools/setup.sh mutation
	@PYTHONHASHSEED=0 nice .venv-mutation/bin/python tools/mutation.py $(ARGS)

bench:
	@tools/setup.sh bench
	@$(BIN)/python -m bench.performance $(ARGS)

bench-tick:
	@tools/setup.sh bench
	@$(BIN)/python -m bench.tick_profile $(ARGS)

bench-pyz:
	@tools/setup.sh bench
	@$(BIN)/python -m bench.single_file $(ARGS)

bench-growth:
	@tools/setup.sh plot
	@.venv-plot/bin/python -m bench.growth $(ARGS)

bench-peers:
	@tools/setup.sh peers
	@$(BIN)/python -m bench.peers $(ARGS)

bench-failover:
	@tools/setup.sh plot
	@.venv-plot/bin/python -m bench.failover_vm $(ARGS)

bench-late-paths:
	@tools/setup.sh test
	@$(BIN)/python -m bench.late_paths $(ARGS)

bench-outages:
	@tools/setup.sh test
	@$(BIN)/python -m bench.outages $(ARGS)

pictures:
	@tools/setup.sh plot
	@.venv-plot/bin/python -m bench.pictures

screenshots:
	@tools/setup.sh plot
	@.venv-plot/bin/python -m bench.screenshots $(ARGS)

# The demo in a terminal of its own (script(1)), faster than it was.
recording:
	@tools/setup.sh recording
	@script -qec ".venv-recording/bin/termtosvg docs/demo.svg -g 80x19 -M 120 -D 8000 \
		-c '$(MAKE) --no-print-directory demo'" /dev/null

bench-scale:
	@tools/setup.sh plot
	@.venv-plot/bin/python -m bench.fleet $(ARGS)

clean:
	rm -rf .venv .venv-* .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# -- installation (docs/install) -----------------------------------------------------------

.PHONY: pyz deb man release test-packages

# One file for a bare Python 3.6 or newer, compiled for the interpreters of this machine.
pyz:
	python3 tools/build_pyz.py

deb:
	python3 tools/build_deb.py

# Wheel, sdist, single file, packages, checksums and SBOM, in dist/release.
release:
	@tools/setup.sh release
	@.venv-release/bin/python tools/release.py $(ARGS)

man:
	@tools/setup.sh man
	$(BIN)/python tools/build_man.py

# Builds and installs packages of each kind in chroots and in booted systems.
test-packages:
	@tools/setup.sh packaging
	GARP_AGENT_PACKAGES=1 $(BIN)/python -m pytest tests/packaging $(ARGS)
