# Every target sets up .venv first, once. `make PYTHON=python3.12 …` chooses the Python that it is made from.
SHELL := /bin/bash
PYTHON ?= python3
# dvc runs `python -m stages.<name>`: that python is the one in .venv
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# The demo's folder and params, which .ci/run sets to try the pipeline on other data.
DEMO ?= .demo
PARAMS ?= recipes/demo.yaml

.PHONY: help demo test repro fresh lint

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1@\2/p' Makefile | column -t -s @

demo: .venv/ready ## run the whole pipeline on images drawn on the spot, in the ignored folder .demo
	@mkdir -p $(DEMO)/.dvc && rm -rf $(DEMO)/stages $(DEMO)/cifar
	@cp -R stages cifar dvc.yaml .dvcignore $(DEMO) && cp $(PARAMS) $(DEMO)/params.yaml
	@cp -R .dvc/config .dvc/plots $(DEMO)/.dvc && printf '[core]\n    no_scm = true\n' > $(DEMO)/.dvc/config.local
	@cd $(DEMO) && python -m dvc repro
	@cd $(DEMO) && echo && python -m dvc metrics show metrics/evaluate.json
	@echo && echo 'Pictures:' && ls -d $(DEMO)/plots/*/*.png

test: .venv/ready ## run the tests
	@python -m pytest

repro: .venv/ready ## bring every result up to date with the code and params.yaml (dvc repro)
	@python -m dvc repro

# Not `dvc repro --dry`: in a clone without the data that fails at the first stale stage.
fresh: .venv/ready ## fail when dvc.lock is behind the code or params.yaml, naming the stages
	@set -o pipefail; python -m dvc status --json | python -c 'import json, re, sys; \
	is_stale = lambda changes: re.search("modified|new\"|changed command", json.dumps(changes)); \
	stale = [stage for stage, changes in json.load(sys.stdin).items() if is_stale(changes)]; \
	sys.exit("stale: " + " ".join(stale) + " (make repro brings them up to date)" if stale else 0)'

lint: .venv/ready ## check format and style
	@python -m ruff format --check && python -m ruff check

# What an interruption leaves half done is taken up again; the stamp is made last. pip's own words are in .venv/install.log.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; \
	sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or later is needed, $(PYTHON) is " + v + "; try make PYTHON=python3.12")'
	@.venv/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo 'Setting up .venv: some 5 GB, most of it torch, once. The larger parts:'
	@set -o pipefail; project() { python -c "import tomllib; t = tomllib.load(open('pyproject.toml', 'rb')); print(*t$$1, sep='\n')"; }; \
	project "['project']['dependencies'], *t['dependency-groups']['test']" > .venv/requirements.txt; \
	project "['dependency-groups']['test-no-deps']" > .venv/requirements-no-deps.txt; \
	install() { python -m pip install --progress-bar off --constraint constraints.txt "$$@" 2>&1; }; \
	{ install -r .venv/requirements.txt && install --no-deps -r .venv/requirements-no-deps.txt; } | tee .venv/install.log \
	| { grep --line-buffered -oE '[^ /]+ \(([0-9]{3,}\.[0-9] M|[0-9.]+ G)B\)|^Installing collected packages' || true; } \
	|| { grep -A 9 '^ERROR' .venv/install.log; exit 1; }
	@touch $@
	@echo 'Setting up .venv: done.'
