# Every target but `help` sets up .venv first, once. `make PYTHON=python3.12 …` chooses the Python that it is made from.
SHELL := /bin/bash
PYTHON ?= python3
# DVC runs `python -m stages.<name>` with the python of .venv
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# The demo's folder and params, which .ci/run sets to try the pipeline on other data.
DEMO ?= .demo
PARAMS ?= recipes/demo.yaml
# Scripts read these from the environment, where $ and ; are plain text. Pasted into a command, the shell would run them.
override DEMO := $(value DEMO)
override PARAMS := $(value PARAMS)
override PYTHON := $(value PYTHON)
export DEMO PARAMS PYTHON
# `python -m stages.<name>` finds `stages` in the current folder, where PYTHONSAFEPATH would forbid Python to look.
unexport PYTHONSAFEPATH

.PHONY: help demo pictures test kills gpu repro experiments mend deps page fresh lint audit

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{ printf "make %-11s  %s\n", $$1, $$2 }' Makefile

demo: .venv/ready ## run the whole pipeline on drawn images, in the folder .demo
	@python .dvc/demo.py

pictures: .venv/ready ## draw 360 pictures into data/images/, to try `dataset: folder`
	@PYTHONPATH=. python .dvc/pictures.py

test: .venv/ready ## run the tests, two at a time; with SLOW=1 also those that take long
	@[ "$$SLOW" ] || set -- -m 'not slow'; \
	OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder "$$@"

kills: .venv/ready ## kill the pipeline six times in each stage, and check that the results are the same
	@KILLS="$${KILLS:-54}" python -m pytest tests/test_kills.py -rP

gpu: .venv/ready ## measure on a GPU what is still unmeasured, the most important first; run it again to continue
	@python -m benchmarks.gpu

repro: .venv/ready ## repair DVC's files, then run each stage that has changed or lacks its outputs: `dvc repro`
	@python .dvc/repro.py

# `dvc exp show` has a column for every param and metric, some 1,100 characters in all.
experiments: .venv/ready ## list the experiments: their main params and accuracies
	@python -m dvc exp show --drop '$(SHOWN)'
SHOWN := ^(?!(Experiment|accuracy|tta_accuracy|wrong|val_accuracy|dataset|model\.name|epochs|(params\.yaml:)?lr_max|seed)$$)

mend: .venv/ready ## repair an incomplete dvc.lock or lock file of DVC, and damaged entries of its cache
	@python .dvc/mend.py

deps: .venv/ready ## list in dvc.yaml the modules that each stage imports
	@python .dvc/deps.py

page: .venv/ready ## write the template of the `dvc plots` page, with Vega included
	@PYTHONPATH=. python .dvc/page.py

# Not `dvc repro --dry`: in a clone without the data that fails at the first stale stage. Only results in Git must be there.
fresh: .venv/ready ## check that dvc.lock is up to date with the code and params.yaml
	@status=$$(python -m dvc status --json) && python -c 'import json, re, sys; \
	is_stale = lambda changes: re.search("modified|new\"|changed command|\"(metrics|plots)/[^\"]*(json|csv|svg|curve.png)\": \"deleted", json.dumps(changes)); \
	stale = [stage for stage, changes in json.load(sys.stdin).items() if is_stale(changes)]; \
	sys.exit("stale: " + " ".join(stale) + " (make repro brings them up to date)" if stale else 0)' <<< "$$status"

lint: .venv/ready ## check format and style
	@python -m ruff format --check && python -m ruff check

audit: .venv/ready ## check the pinned packages for known vulnerabilities and for AGPL licences
	@.venv/audit/bin/python -m pip --version > /dev/null 2>&1 || "$$PYTHON" -m venv --clear .venv/audit
	@.venv/audit/bin/python -m pip install --quiet pip-audit==2.10.1 pip-licenses==5.5.5
	@.venv/audit/bin/pip-licenses --python .venv/bin/python --from mixed --partial-match --fail-on 'AGPL;Affero' --summary
	@.venv/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

# An interrupted set-up is taken up again, since the stamp is made last. .venv/install.log has what pip printed.
.venv/ready: pyproject.toml constraints.txt
	@"$$PYTHON" -c 'import os, sys; v = "%d.%d" % sys.version_info[:2]; \
	sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or later is needed, " + os.environ["PYTHON"] + " is " + v + "; try make PYTHON=python3.12")'
	@.venv/bin/python -m pip --version > /dev/null 2>&1 || "$$PYTHON" -m venv --clear .venv
	@echo 'Setting up .venv: some 6 GB, most of it torch, once. This takes some minutes.'
	@set -o pipefail; project() { python -c "import tomllib; t = tomllib.load(open('pyproject.toml', 'rb')); print(*t$$1, sep='\n')"; }; \
	project "['project']['dependencies'], *t['dependency-groups']['test']" > .venv/requirements.txt; \
	project "['dependency-groups']['test-no-deps']" > .venv/requirements-no-deps.txt; \
	install() { python -m pip install --progress-bar off --constraint constraints.txt "$$@" 2>&1; }; \
	{ install -r .venv/requirements.txt && install --no-deps -r .venv/requirements-no-deps.txt; } | tee .venv/install.log \
	| { grep --line-buffered -oE '[^ /]+ \(([0-9]{3,}\.[0-9] M|[0-9.]+ G)B\)|^Installing collected packages' || true; } \
	|| { grep -A 9 '^ERROR' .venv/install.log; exit 1; }
	@touch $@
	@echo 'Setting up .venv: done.'
