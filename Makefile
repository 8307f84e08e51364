# make train        the main job: sets everything up, then trains on two Atari games
# make test         sets everything up, then runs all tests
# make lint         lint, format and types, as CI wants them, and the Dockerfile
# make format       writes imports and lines as lint wants them
# make test-lowest  a short part of the tests with the oldest dependencies that pyproject.toml allows, in .venv-lowest
# make ding         the tests of the plug-in for DI-engine, in .venv-ding, which sees .venv and has DI-engine besides
# make test-long    the cases that make test leaves out because others like them are in it; a quarter of an hour
# make soak         hundreds of kills and damaged checkpoints, and half an hour of training; an hour
# make fuzz         thousands of examples of what may stand in configs, files and trees; a quarter of an hour
# make docs         the documentation as a site in docs/_build/html; broken links and references are errors
# make setup        only prepares .venv
# JOBS=2            test processes side by side
# ARGS="…"          extra arguments, e.g. make train ARGS="cpu --train.max-env-steps 2000"

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
JOBS ?= 2
BIN := .venv/bin
LOWEST ?= .venv-lowest
DING ?= .venv-ding
SCRIPT := zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe.py
# Every dependency is used by one of them, and examples/ trains; minutes instead of the whole suite.
LOWEST_TESTS := tests/test_project.py tests/test_examples.py tests/test_imports.py tests/test_config.py \
	tests/test_logging.py tests/checkpoint/test_manager.py tests/test_profiling.py tests/entry/test_cli.py \
	tests/envs/test_atari.py tests/mcts/test_tree.py tests/mcts/test_search.py tests/analysis/test_heatmap.py \
	tests/analysis/test_task_gradients.py tests/report/test_statistics.py tests/report/test_figures.py \
	tests/worker/test_evaluator.py tests/zoo/test_minatar.py

.PHONY: train test test-long soak fuzz lint format docs test-lowest ding setup clean

train: setup
	$(BIN)/python $(SCRIPT) $(ARGS)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: setup
	$(BIN)/python -m pytest -m long --timeout 600 -n $(JOBS) --dist load $(ARGS)

soak: setup
	LZERO_SOAK_MINUTES=30 $(BIN)/python -m pytest -m "" --timeout 7200 -rP tests/reliability/test_soak.py
	LZERO_KILLS=200 LZERO_DAMAGED_CHECKPOINTS=300 $(BIN)/python -m pytest -m "" -n $(JOBS) --dist load --timeout 7200 -rP \
		tests/reliability --deselect tests/reliability/test_soak.py $(ARGS)

fuzz: setup
	LZERO_EXAMPLES=2000 $(BIN)/python -m pytest -n $(JOBS) --dist load --timeout 3600 tests/fuzz $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: setup
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

docs: .venv/.docs
	$(BIN)/python -m sphinx -b html -q --fail-on-warning --keep-going docs docs/_build/html
	@echo "open docs/_build/html/index.html"

.venv/.docs: .venv/.installed requirements-docs.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -n $(JOBS) --dist loadfile $(LOWEST_TESTS) $(ARGS)

ding: $(DING)/.installed
	$(DING)/bin/python -m pytest tests/ding $(ARGS)

setup: .venv/.installed

.venv/.installed: requirements.txt pyproject.toml setup.py lzero/native/search_step.cpp
$(LOWEST)/.installed: requirements-lowest.txt pyproject.toml setup.py

# The packages of .venv are not installed again: they are looked for there after those that this one has itself.
$(DING)/.installed: .venv/.installed requirements-ding.txt
	$(BIN)/python -m venv $(DING)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(DING)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/packages_of_lzero.pth"
	$(DING)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-ding.txt
	touch $@

%/.installed:
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.13 is needed; name one with make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $*
	$*/bin/pip install --quiet --disable-pip-version-check -r $<
	$*/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$*/bin/python -c 'from lzero.native import search_step; raise SystemExit(search_step() is None)' || \
		echo "the search step was not compiled: the tree search will run in torch, several times slower; install g++ (python setup.py build_ext shows what it says), then make clean setup"
	touch $@

clean:
	rm -rf .venv .venv-lowest .venv-ding
