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
	@echo "make reproduce   run the study on the phantom archive; repeat the command to resume (README.md states the time)"
	@echo "make audits      finish the study, then run the audits: notebooks 11 to 14"
	@echo "make extensions  finish the study, then run the two related methods: notebooks 21 to 24"
	@echo "make everything  study, audits and extensions"
	@echo "make smoke       run the study at toy size to check the installation (results are meaningless)"
	@echo "make test        check style and run all tests, including notebooks and the workflow"
	@echo "make check       check style and run the fast tests, for every commit"
	@echo "make lab         open JupyterLab on a run (RUN=name; default: the newest) with its report, executed notebooks and editable copies"
	@echo "make docs        build the documentation as a website, with the notebooks of a run (RUN=name; default: the newest finished phantom run)"
	@echo "make readers     serve the page on which readers rate images of a run; MODE=annotate: on which an expert marks arterial frames"
	@echo "make readers-export   export the answers as files for notebook 06 (or 02)"
	@echo "make weights     train the shipped phantom weights again (hours) and write models/phantom"
	@echo "make verify RUN=name   compare the numbers of a finished run with the tracked reference of its profile"
	@echo "make clean-run RUN=name   delete a run"
	@echo
	@echo "RUN=name          folder under runs/ (default: name of the profile; required with ARCHIVE)"
	@echo "PROFILE=name      smoke, phantom or paper"
	@echo "ARCHIVE=folder    your DICOM files instead of the phantom archive; without annotations or a classifier, the run ends after curation"
	@echo "SERIES=n          use only the first n files (series) of the archive, ordered by path"
	@echo "CLASSIFIER=run    use the trained phase classifier of that run"
	@echo "OVERRIDES='{\"diffusion.batch_size\": 8}'   change single values of the profile (dsa_lib/run/hyperparameters.py)"
	@echo "PARAMETERS='{\"name\": \"value\"}'   set further notebook parameters, as declared in their parameters cells"
	@echo "SNAKEMAKE='...'   options for snakemake"
	@echo "of make readers: RATERS=NR1:NR,NS1:NS  SCREENER=name  CONTROLS=20 (real frames mixed in)  TURING=1 (ask which images are real)"
	@echo "                 SERIES=n (number of series to annotate, drawn at random)"
	@echo "                 SEED=n  STUDY=name  PORT=number  HOST=address (default: only this machine); of readers-export: TO=folder"

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
