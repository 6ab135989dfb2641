# make demo : the whole job on the sample clip          make test : every notebook and every test
# make lab  : the course in Jupyter                     make setup, readme, clean
# Everything is installed into .venv; nothing outside this folder is changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV = .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.syncgaussian-installed
PYTEST_ARGS ?=

.PHONY: demo test lab setup libraries readme clean

demo: libraries
	$(BIN)/syncgaussian demo

test: libraries
	$(BIN)/python -m pytest tests -q -ra $(PYTEST_ARGS)

# The hooks' settings of Jupyter go into .venv as well: they clean notebooks as they are saved, and merge them cell by cell
lab: setup
	-HOME="$(abspath $(VENV))" $(BIN)/nbdev-install-hooks
	JUPYTER_CONFIG_PATH="$(abspath $(VENV))/.jupyter" $(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/nbs/index.ipynb --LabApp.extension_manager=readonly --LabApp.news_url= --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

setup: $(STAMP)

$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and neither python3.11 nor python3 is here."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info<(3,11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) -V`. Name another one: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt-get install -y python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

libraries: setup
	@$(BIN)/python -c 'import sys; from syncgaussian.assets import check_system_libraries as check; sys.exit(check() or 0)'

readme: setup
	$(BIN)/python tools/readme.py

clean:
	rm -rf build dist *.egg-info out .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
