# `make demo` and `make test` need only Python 3.11 or later, gcc and make: each installs what it needs into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test nightly lint docs gallery reproduce reproduce-small install bench clean

demo: $(INSTALLED)
	rm -rf demo
	$(BIN)/larscope demo --out demo

test: $(INSTALLED) lint
	$(BIN)/pytest -n 2

# what takes too long for every commit: the slow tests, and thousands of cases for each property; then the numerical tests
# once more, with the instructions of older processors
NUMERICAL := tests/lasso tests/dynamics tests/network tests/statistics tests/fit
nightly: $(INSTALLED)
	$(BIN)/pytest -n 2 -m "slow or not slow" --hypothesis-profile nightly --timeout 3600
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/pytest -n 2 $(NUMERICAL)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# the site goes to site/, and opens from there without a server; any warning is an error
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# the pictures of docs/gallery.md, by the scripts that it shows
gallery: $(INSTALLED)
	cd docs/images && for script in ../../examples/*.py; do ../../$(BIN)/python $$script || exit 1; done

# the paper's tables and figures: hours, in parts that can be stopped and started (PARTS="table2-half truth/0"), so many
# at once
JOBS ?= 2
reproduce: $(INSTALLED)
	$(BIN)/python -m reproduction.paper full --jobs $(JOBS) $(PARTS)

# the same code on small sessions, to reproduction/small
reproduce-small: $(INSTALLED)
	$(BIN)/python -m reproduction.paper small --jobs $(JOBS) $(PARTS)

install: $(INSTALLED)

# minutes; what is printed beside each time is its ratio to the committed one
bench: $(INSTALLED)
	$(BIN)/python benchmarks/lasso.py shared two_threads warm gradient --repeats 2 --compare
	$(BIN)/python benchmarks/training.py floors step reading --repeats 3 --compare

# torch comes first and alone: constraints.txt names the version that the others must then leave in place
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist demo site .mypy_cache .pytest_cache .ruff_cache .hypothesis
