# What to type. Needs python3 (3.11 or later, with venv), git and make; everything else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup run demo-rollout demo-battery test sim sim-rollouts check bench chaos clean lock
.DELETE_ON_ERROR:

setup: $(READY)

# Redone only when the lock or the project's own metadata changes. Every package is checked against the hash in the lock.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: make PYTHON=python3.12 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "no venv module: on Debian, apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The whole thing, for real: make run [INPUT=folder of files to work on]
run: $(READY)
	$(BIN)/fog demo $(if $(INPUT),--input "$(INPUT)")

# A real model brought to ten devices and used by `fog map`; two bad versions of it stop themselves. [INPUT=folder]
demo-rollout: $(READY) requirements-demo.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-demo.lock
	$(BIN)/fog demo rollout $(if $(INPUT),--input "$(INPUT)")

# A phone through an evening in two minutes: what it did, as a chart in the terminal and in build/battery.png
demo-battery: $(READY) requirements-chart.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-chart.lock
	$(BIN)/fog demo battery --png build/battery.png

# make test [ARGS=…] [EXAMPLES=2000: so many new ones of each property, in place of the 50 that are always the same];
# one file at a time in each of three processes, with a broker of its own
test: $(READY)
	$(if $(EXAMPLES),FOG_EXAMPLES=$(EXAMPLES) )$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Simulated worlds: make sim, or make sim SEED=7 for one with its transcript. [ARGS="--seeds 0:5000 --go-on", --bugs, …]
sim: $(READY)
	$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED)) $(ARGS)

# Simulated rollouts. [ARGS="--devices 10000 --seeds 5"]
sim-rollouts: $(READY)
	$(BIN)/python -m tests.sim.rollouts $(ARGS)

# The long campaigns: hundreds of kills of everything, under load. make chaos [KILLS=200] [ARGS=…]
chaos: $(READY)
	FOG_CHAOS_KILLS=$(or $(KILLS),200) $(BIN)/python -m pytest -m chaos -s tests/chaos $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make bench [ONLY=figure]; writes build/bench.json
bench: $(READY)
	$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What a demo needs beside requirements.lock: $(1) is the extra's name.
EXTRA = import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]])
define lock_extra
	echo '# Made by `make lock`: the extra `$(1)`, beside requirements.lock. Do not edit.' > requirements.new
	$(BIN)/python -c '$(EXTRA)' $(1) | $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --constraint requirements.lock - >> requirements.new
	mv requirements.new requirements-$(1).lock
endef

# Resolve the dependencies anew, for every platform and Python that we support.
lock: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	echo '# Made by `make lock` from pyproject.toml, for every platform and Python ≥ 3.11. Do not edit.' > requirements.new
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --upgrade \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml >> requirements.new
	mv requirements.new requirements.lock
	$(call lock_extra,demo)
	$(call lock_extra,chart)
