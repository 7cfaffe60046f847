# make quickstart: tickets and pools of handwritten digits, a table and a picture, in minutes on two cores
# make test:       checks and tests, on two cores
# Both set up $(VENV) first; PYTHON names the interpreter to do it with (3.10 or newer).
PYTHON ?= python3
VENV ?= .venv

# Threads that spin while they wait are many times slower than sleeping ones on cores that others use too.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: quickstart test install clean

install: $(VENV)/installed

$(VENV)/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

quickstart: install
	PYTHON="$(abspath $(VENV))/bin/python" scripts/quickstart.sh

test: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
