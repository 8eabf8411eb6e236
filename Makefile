# Each target does its own set-up; `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo attack attack-full reproduce test test-slow test-integration lint bench vectors clean
help:
	@echo "make demo [ARGS=…]  five clients edit one GPT-2 together, a few minutes on two cores (ARGS=--help lists the options)"
	@echo "make attack [ARGS=…] what each party could learn, tried out; two or three minutes (make attack-full: ten)"
	@echo "make reproduce [ARGS=…] the paper's Table 1 again, on the small world, in minutes (ARGS=figure1, figure3; ARGS=--help)"
	@echo "make test           lint, types, import rules and all tests"
	@echo "make test-slow      what takes longer: the small world made again byte for byte, every party killed at every step"
	@echo "make test-integration  sums and editing inside Flower and NVFlare, deployed as processes on this machine"
	@echo "make vectors        protocols/vectors and secagg.md's diagrams, made again; no difference but for a reason"
	@echo "make lint           ruff, mypy, import-linter"
	@echo "make bench [ARGS=…] the benchmarks behind benchmarks/README.md, half an hour (ARGS=--quick: minutes)"
	@echo "make clean          remove .venv and caches; never touches results"

demo: .venv/demo.done
	@$(BIN)/collabsecure demo $(ARGS)

attack: .venv/demo.done
	@$(BIN)/collabsecure attack $(ARGS)

attack-full: .venv/demo.done
	@$(BIN)/collabsecure attack --suite full --out out/attack-full $(ARGS)

reproduce: .venv/report.done
	@$(BIN)/collabsecure reproduce $(or $(ARGS),table1)

# A worker for each core: BLAS threads beside them would only wait for each other.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto $(ARGS)

test-slow: .venv/dev.done
	$(BIN)/pytest -m slow --ignore=tests/integrations $(ARGS)

test-integration: .venv/dev.done
	$(BIN)/pytest -m slow --durations=0 tests/integrations $(ARGS)

lint: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: .venv/dev.done
	@$(BIN)/python -m benchmarks $(ARGS)

vectors: .venv/dev.done
	$(BIN)/python tests/protocols/regenerate.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "collabsecure needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1); say which: make PYTHON=python3.11 …" >&2; exit 1; }
	@echo "Setting up .venv (once)…"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "No virtual environment could be made; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

.venv/demo.done: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing collabsecure with PyTorch for the CPU (once, about 1 GB)…"
	@$(PIP) --editable '.[edit]'
	@touch $@

.venv/report.done: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing collabsecure with PyTorch for the CPU and matplotlib (once, about 1 GB)…"
	@$(PIP) --editable '.[edit,report]'
	@touch $@ .venv/demo.done

.venv/dev.done: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing collabsecure and its development tools (once, about 1 GB)…"
	@$(PIP) --editable '.[edit,dev]'
	@touch $@ .venv/demo.done .venv/report.done
