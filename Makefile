# `make demo` and `make test` need nothing but Python 3.11 or newer: they make .venv and install into it.
PYTHON ?= python3
BIN := .venv/bin
TASKS := random_inpainting super_resolution gaussian_deblurring

.PHONY: demo test lint fuzz faults campaign clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[faces,mri,test]'
	touch $@

DEMOS := $(foreach task,$(TASKS),$(task)_dps $(task)_langevin $(task)_kinetic)

demo: .venv/installed
	for demo in $(DEMOS); do $(BIN)/python lightning_cli.py predict --config configs/demo/$$demo.yaml || exit $$?; done
	$(BIN)/python -m benchmarks compare --runs '[$(foreach demo,$(DEMOS),results/demo_$(demo),)]'

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; fi

test: lint
	$(BIN)/python -m pytest

# Long runs; `make test` has a fixed share of each. Counts: docs/campaign.md
fuzz: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks fuzz --configs 3000 --files 1000 --matrices 150 --output results/fuzz

faults: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks faults --moments 20 --output results/faults

campaign: fuzz faults

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
