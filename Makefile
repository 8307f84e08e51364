# make train   the main job: sets everything up, then trains on two Atari games
# make test    sets everything up, then runs all tests
# make setup   only prepares .venv
# JOBS=2       test processes side by side
# ARGS="…"     extra arguments, e.g. make train ARGS="cpu --train.max-env-steps 2000"

PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
	$$p -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
JOBS ?= 2
BIN := .venv/bin
SCRIPT := zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe.py

.PHONY: train test lint setup clean

train: setup
	$(BIN)/python $(SCRIPT) $(ARGS)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup
	$(BIN)/ruff check .

setup: .venv/.installed

.venv/.installed: requirements.txt setup.py
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name one with make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf .venv
