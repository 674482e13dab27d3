# Every target sets itself up. It needs Python 3.11 or newer with venv and pip, git and make.

PYTHON ?= python3
LAB_ARGS ?=
TEST_ARGS ?=
PEER ?=
BENCH_ARGS ?=
NUMBERS ?=
BIN := .venv/bin
READY := .venv/.ready
LAB_SETTINGS := .venv/share/jupyter/lab/settings
# Prefer the kernel of .venv over others; use one torch thread where processes run in parallel.
JUPYTER := JUPYTER_PREFER_ENV_PATH=1
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help .venv lab test lint bench book browser browser-test pictures lock outputs strip clean

help: ## list the targets
	@awk -F ':.*## ' '/^[.a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: $(READY) ## open JupyterLab on the first notebook
	$(JUPYTER) $(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=. $(LAB_ARGS) notebooks/00_start_here.ipynb

lint: $(READY) ## check the format, common mistakes, and that imports run one way
	$(BIN)/ruff format --check --quiet cepnb tests notebooks
	$(BIN)/ruff check --quiet cepnb tests notebooks
	$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache

test: lint ## run `make lint` and all tests, every notebook included
	CEPNB_PROFILE=ci $(JUPYTER) $(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal --nbmake --nbmake-timeout=600 $(TEST_ARGS)

bench: $(READY) ## measure speed against this machine's limits, and PEER=PATH against the paper's code
	$(BIN)/python -m cepnb bench $(if $(PEER),--peer "$(PEER)") $(BENCH_ARGS)

book: $(READY) ## execute all notebooks into a site: open book/index.html
	@$(JUPYTER) $(ONE_THREAD) $(BIN)/python -m cepnb.tools.book

browser: ## install Chromium from Debian's packages if there is no browser
	@command -v chromium || command -v chromium-browser || command -v google-chrome || (apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium)

browser-test: browser $(READY) ## test sliders and book in a browser; `make test` skips these tests without one
	CEPNB_BROWSER=insist $(JUPYTER) $(ONE_THREAD) $(BIN)/python -m pytest tests/test_page.py tests/test_book.py tests/test_lab.py $(TEST_ARGS)

pictures: browser $(READY) ## draw the pictures of README and docs
	$(JUPYTER) $(BIN)/python tests/pictures.py

.venv: $(READY) ## set up the environment in .venv and nothing else

# The stamp comes last, so an interrupted set-up starts again.
$(READY): requirements.lock pyproject.toml .jupyterlab.json
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "cepnb needs Python 3.11 or newer, but $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % v[:2])'
	@test -e $(READY) || $(PYTHON) -m venv --clear .venv
	@rm -f $(READY)
	@echo "installing the versions of requirements.lock into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@mkdir -p $(LAB_SETTINGS) && cp .jupyterlab.json $(LAB_SETTINGS)/overrides.json
	@touch $(READY)

lock: ## resolve the ranges of pyproject.toml into requirements.lock
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check '.[test,book,cluster]'
	sed -n '/^#/p' requirements.lock > .venv-lock/new
	.venv-lock/bin/python -m pip freeze --all | grep -v -e '^cepnb' -e '^pip==' | sed 's/+cpu$$//' >> .venv-lock/new
	mv .venv-lock/new requirements.lock
	rm -r .venv-lock

outputs: $(READY) ## execute the notebooks whose code changed and store their outputs (hours in all)
	$(JUPYTER) $(BIN)/python -m cepnb.tools.outputs $(NUMBERS)

strip: $(READY) ## remove outputs and widget state from the notebooks
	$(BIN)/jupyter nbconvert --log-level=WARN --clear-output --ClearMetadataPreprocessor.enabled=True --ClearMetadataPreprocessor.clear_cell_metadata=False --ClearMetadataPreprocessor.preserve_nb_metadata_mask=kernelspec --inplace notebooks/*.ipynb

clean: ## remove the environment and caches of the tests
	rm -rf .venv .venv-lock .pytest_cache .hypothesis cepnb.egg-info
