# `make demo` and `make test` need nothing but Python 3.11 or newer: they make .venv and install into it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
TASKS := random_inpainting super_resolution gaussian_deblurring
, := ,

.PHONY: demo compare test lint docs fuzz faults judge campaign clean

# uv needs a third of pip's time. It does not read pip's settings, so it is told where pip looks for packages.
define install
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	setting() { $(PIP) config get global.$$1 2>/dev/null; }; \
	$(PIP) install --quiet uv 2>/dev/null && UV_INDEX_STRATEGY=unsafe-best-match UV_DEFAULT_INDEX="$$(setting index-url)" \
	UV_INDEX="$$(setting extra-index-url)" UV_CONSTRAINT="$$(setting constraint)" \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '$(1)' \
	|| $(PIP) install --quiet --editable '$(1)'
	touch $@
endef

.venv/demo: pyproject.toml
	$(call install,.)

# The tests start many processes: uv compiles nothing, and each of them may be forbidden to keep what it has compiled.
.venv/test: pyproject.toml
	$(call install,.[ct$(,)docs$(,)faces$(,)mri$(,)peers$(,)photos$(,)priors$(,)test])
	$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true

demo: .venv/demo
	$(BIN)/posterior-sampling demo

# Four samplers on three tasks, 16 faces: twelve runs, four minutes on two CPU cores.
DEMOS := $(foreach task,$(TASKS),$(task)_dps $(task)_langevin $(task)_kinetic $(task)_conditional)

compare: .venv/demo
	for demo in $(DEMOS); do $(BIN)/posterior-sampling predict --config configs/demo/$$demo.yaml || exit $$?; done
	$(BIN)/posterior-sampling compare --runs '[$(foreach demo,$(DEMOS),results/demo_$(demo),)]'

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; fi

# Two processes of one thread each: two of two threads on two cores slow each other tenfold. A file's tests stay
# together, as they share what is costly to make; tests/conftest.py has the longest files come first.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10

# The site, in site/: open site/index.html. Nothing of it needs a network.
docs: .venv/test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Long runs; `make test` has a fixed share of each. Counts: docs/campaign.md
fuzz: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks fuzz --configs 3000 --files 1000 --matrices 150 --output results/fuzz

faults: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks faults --moments 20 --output results/faults

judge: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks judge-the-judge --seeds 200 --output results/judge_the_judge

campaign: fuzz faults judge

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
