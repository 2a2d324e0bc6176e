# `make demo` and `make test` need nothing but Python 3.11 or newer: they make .venv and install into it.
PYTHON ?= python3
BIN := .venv/bin
TASKS := random_inpainting super_resolution gaussian_deblurring

.PHONY: demo test lint clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[faces,test]'
	touch $@

demo: .venv/installed
	for task in $(TASKS); do $(BIN)/python lightning_cli.py predict --config configs/demo/$$task.yaml || exit $$?; done
	@echo; for task in $(TASKS); do echo "picture: results/demo_$$task/grid.png"; done

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
