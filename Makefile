# The study, its tests and JupyterLab, each in one command. The environment (.venv) is built from requirements.lock when it is missing or the
# lock has changed; nothing but python3 (3.11 or newer), make and a network or local package index is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A copy of the lock, written last: without it an environment was left half-built and is built anew.
READY := $(VENV)/requirements.installed

# Written before make instead of after it, these would be ignored, and the phantom studied in the place of an archive.
$(foreach name,ARCHIVE CLASSIFIER OVERRIDES PARAMETERS,$(if $(and $(filter environment,$(origin $(name))),$(value $(name))),\
  $(error $(name) stands in the environment, where make does not look for it: write $(name)=... after make)))

# What make understands besides its targets; empty means the default. Exported, so that quotes and spaces in them need no escaping.
ARCHIVE =
CLASSIFIER =
OVERRIDES =
PARAMETERS =
SNAKEMAKE =
PROFILE = phantom
# Of the rating page; what they mean stands in dsa_lib/rating/__main__.py.
CONTROLS =
HOST =
MODE =
PORT =
RATERS =
SCREENER =
SEED =
SERIES =
STUDY =
TO =
TURING =
# A run of one's own archive must be named, so that it never lands in a phantom run.
RUN = $(if $(ARCHIVE),,$(PROFILE))
UNDERSTOOD = ARCHIVE CLASSIFIER OVERRIDES PARAMETERS PROFILE RUN SNAKEMAKE CONTROLS HOST MODE PORT RATERS SCREENER SEED SERIES STUDY TO TURING
export $(UNDERSTOOD)

# A name that nothing reads is refused: with ARCHIV=folder a phantom study would run under the name of one's own.
GIVEN = $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out $(UNDERSTOOD) PYTHON VENV BIN READY MAKEFLAGS -*-command-variables-*-,$(GIVEN))
ifneq ($(UNKNOWN),)
NEAR := $(shell $(PYTHON) -c 'import difflib, sys; given, *known = sys.argv[1:]; print(*difflib.get_close_matches(given.upper(), known, 1))' $(firstword $(UNKNOWN)) $(UNDERSTOOD) 2>/dev/null)
$(error unknown variable $(firstword $(UNKNOWN)): $(if $(NEAR),did you mean $(NEAR)? )make help lists what can be given)
endif

# What make check tests: the plan of the house, the twins, and packages without trainings.
CHECKED = tests/notebooks/test_twins.py tests/unit/workflow/test_house.py tests/unit/workflow/test_environment.py $(addprefix tests/unit/,core paper readers report run vessels)

.PHONY: help reproduce audits extensions everything smoke test check style lab docs readers readers-export weights verify clean-run venv
.DEFAULT_GOAL := help

help:
	@echo "make reproduce   the whole study on the phantom archive (a quarter of an hour to 35 minutes on two cores); the same command resumes"
	@echo "make audits      the study (or what is left of it), then four questions that a distance does not answer: notebooks 11 to 14"
	@echo "make extensions  the study (or what is left of it), then the two neighbouring systems: notebooks 21 to 24"
	@echo "make everything  all of it"
	@echo "make smoke       the same in minutes, far too small to be good: does everything run here?"
	@echo "make test        style, unit tests, notebooks and whole runs of the workflow"
	@echo "make check       style, notebooks in step with their twins, and the unit tests that take seconds: for every commit"
	@echo "make lab         JupyterLab on a run (RUN=name; default: the newest): its report, its executed notebooks, and copies to work on"
	@echo "make docs        the documentation as a site, with the notebooks of the newest finished phantom run (RUN=name: of that run)"
	@echo "make readers     the page on which readers screen and rate a run's images; MODE=annotate: on which an expert marks arterial frames"
	@echo "make readers-export   their answers as files for notebook 06 (or 02)"
	@echo "make weights     train the phantom weights that ship with the project anew (hours), and write models/phantom"
	@echo "make verify RUN=name   hold a finished run's numbers against the tracked reference of its profile"
	@echo "make clean-run RUN=name   remove one run"
	@echo
	@echo "RUN=name          folder under runs/ (default: the profile's name; needed with ARCHIVE)"
	@echo "PROFILE=name      smoke, phantom or paper"
	@echo "ARCHIVE=folder    your own DICOM files instead of the phantom archive; without annotations or a classifier the run ends after curation"
	@echo "SERIES=n          only the first n files (series) of that archive, in the order of their paths: for a trial"
	@echo "CLASSIFIER=run    take the trained phase classifier of that run instead of training one"
	@echo "OVERRIDES='{\"diffusion.batch_size\": 8}'   change single numbers of the profile (dsa_lib/run/hyperparameters.py)"
	@echo "PARAMETERS='{\"name\": \"value\"}'   a further parameter of any notebook, as its parameters cell declares it"
	@echo "SNAKEMAKE='...'   options passed on to snakemake"
	@echo "of make readers: RATERS=NR1:NR,NS1:NS  SCREENER=name  CONTROLS=20 (real frames mixed in)  TURING=1 (ask which are real)"
	@echo "                 SERIES=n (so many series to annotate, drawn at random)"
	@echo "                 SEED=n  STUDY=name  PORT=number  HOST=address (default: this machine alone); of readers-export: TO=folder"

LAUNCH = exec $(BIN)/python workflow/launch.py --run "$$RUN" --profile "$$PROFILE" --archive "$$ARCHIVE" --classifier "$$CLASSIFIER" --series "$$SERIES" \
	--overrides "$$OVERRIDES" --parameters "$$PARAMETERS" --snakemake="$$SNAKEMAKE"

reproduce: $(READY)
	@$(LAUNCH)

audits extensions: $(READY)
	@$(LAUNCH) --parts $@

everything: $(READY)
	@$(LAUNCH) --parts audits extensions

smoke: PROFILE = smoke
smoke: $(READY)
	@$(LAUNCH)

# Two processes of one thread each; a file's tests stay together, because they share what its fixtures made. Files are dealt out in the order of
# tests/conftest.py, the longest first; pytest-xdist's own order would leave the notebooks, one long test, for the end.
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: style
	$(PYTEST)

check: style
	$(PYTEST) $(CHECKED)

style: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

lab: RUN =
lab: $(READY)
	@exec $(BIN)/python workflow/lab.py --run "$$RUN"

docs: RUN =
docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file workflow/site/mkdocs.yml
	@echo "The site is built: open build/site/index.html in a browser"

readers: $(READY)
	@exec $(BIN)/python -m dsa_lib.rating serve --run "$$RUN" --mode "$$MODE" --study "$$STUDY" --raters "$$RATERS" --screener "$$SCREENER" \
	  --controls "$$CONTROLS" --turing "$$TURING" --series "$$SERIES" --seed "$$SEED" --port "$$PORT" --host "$$HOST"

readers-export: $(READY)
	@exec $(BIN)/python -m dsa_lib.rating export --run "$$RUN" --mode "$$MODE" --study "$$STUDY" --to "$$TO"

# Another phantom archive than that of `make reproduce`: the patients whom the weights have seen are never those that they are judged on.
weights: RUN = weights
weights: OVERRIDES = $(shell cat data_manifests/phantom_weights.json)
weights: PARAMETERS = {"from_scratch": true}
weights: SNAKEMAKE = --until notebook_04_ldm
weights: $(READY)
	@$(LAUNCH:exec%=%)
	@$(BIN)/python -m dsa_lib.nn.export "$$RUN"

# Only a PROFILE that was given is passed on: the reference is else that of the run's own profile.
verify: $(READY)
	@exec $(BIN)/python -m dsa_lib.report.verify "$$RUN" $(if $(filter command,$(firstword $(origin PROFILE))),--profile "$$PROFILE")

clean-run: RUN =
clean-run: $(READY)
	@exec $(BIN)/python workflow/launch.py --run "$$RUN" --clean

venv: $(READY)

$(READY): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "error: Python 3.11 or newer is needed and $(PYTHON) was not found: install it, or name it with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, this is %s: make PYTHON=python3.11" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) cannot make a virtual environment: install its venv module (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	@cmp -s requirements.lock $@ || $(BIN)/python -m pip install -r requirements.lock
	@cmp -s requirements.lock $@ || $(BIN)/python -m pip install --no-deps --editable .
	@cp requirements.lock $@
