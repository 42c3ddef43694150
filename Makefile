# All targets make what they need first. `make` alone lists them.
# Variables: PYTHON=python3.13 chooses the interpreter; ARGS="-k name" goes to the tool;
# SOAK_SECONDS=7200 is how long `make soak` takes, FUZZ_SECONDS=600 each of the fuzzers.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
STAMPS := $(VENV)/.stamps
RUN := $(VENV)/bin/python
FACTS := setup.cfg setup.py pyproject.toml
ARGS ?=
SOAK_SECONDS ?= 600
FUZZ_SECONDS ?= 60
REQUIRE_SERVERS ?= redis,postgres
# Processes that run the tests; WORKERS=0 runs them in one. Each starts servers of its own. A file's
# tests stay in one process, files start in the order of their names: the long ones do not come last.
# With 2 on 2 cores the suite takes little more than half the time.
# EXPLORER_SCHEDULES (100000) and STATE_MACHINE_EXAMPLES (300) in the environment search for longer.
WORKERS ?= 2
SPREAD = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1

find_python = for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
	if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then break; fi; python=; done; \
	test -n "$$python" || { echo "Python 3.11 or later is needed; none was found" >&2; exit 1; }

# One stamp for each set of dependency groups, older than the files that name them: out of date.
install = @$(find_python); echo "installing into $(VENV): $(1)"; \
	"$$python" scripts/bootstrap.py $(VENV) $(1) && mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test: $(FACTS)
	$(call install,test schedules)
$(STAMPS)/lint: $(FACTS)
	$(call install,test schedules lint demo bench)
$(STAMPS)/docs: $(FACTS)
	$(call install,docs)
$(STAMPS)/demo: $(FACTS)
	$(call install,demo)
$(STAMPS)/bench: $(FACTS)
	$(call install,bench)
$(STAMPS)/fuzz: $(FACTS)
	$(call install,fuzz)

##@ To see it
.PHONY: demo demo-check
demo: $(STAMPS)/demo ## Run the example project with a real worker; Ctrl-C ends it
	@exec $(RUN) example_project/demo.py $(ARGS)
demo-check: $(STAMPS)/demo ## The same unattended: ask over HTTP, check the answers, end
	@exec $(RUN) example_project/demo.py --check $(ARGS)

##@ To change it
.PHONY: test test-postgres test-all faults soak fuzz check format lint types imports migrations package \
	docs bench
test: $(STAMPS)/test servers ## Run the whole suite on real servers
	@REQUIRE_SERVERS=$(REQUIRE_SERVERS) $(RUN) -m pytest $(SPREAD) $(ARGS)
test-postgres: $(STAMPS)/test servers ## The same with PostgreSQL in place of SQLite
	@TEST_DATABASE=postgres REQUIRE_SERVERS=$(REQUIRE_SERVERS) \
		$(RUN) scripts/servers.py run postgres -- $(RUN) -m pytest $(ARGS)
test-all: $(STAMPS)/test ## The same on each Python here with each supported Django
	@$(RUN) scripts/matrix.py -- $(ARGS)
faults: $(STAMPS)/test servers ## Break everything around the code and judge the promised figures
	@FAULTS=full REQUIRE_SERVERS=1 $(RUN) -m pytest tests/faults $(ARGS)
soak: $(STAMPS)/test servers ## Random faults for SOAK_SECONDS (600): nothing breaks, nothing grows
	@FAULTS=soak SOAK_SECONDS=$(SOAK_SECONDS) REQUIRE_SERVERS=1 $(RUN) -m pytest -m soak \
		--timeout=0 -s tests/faults $(ARGS)
fuzz: $(STAMPS)/fuzz ## Feed the parsers and the key builder for FUZZ_SECONDS (60) each
	@for name in entries messages keys; do echo "fuzz/$$name.py, $(FUZZ_SECONDS) s"; \
		$(RUN) -m fuzz $$name -max_total_time=$(FUZZ_SECONDS) -verbosity=0 \
		-print_final_stats=1 $(ARGS) || exit 1; done
check: lint types imports migrations docs package ## All that is checked besides tests
format: $(STAMPS)/lint ## Format the code and mend what can be mended
	@$(RUN) -m ruff check --fix --quiet .; $(RUN) -m ruff format .
bench: $(STAMPS)/bench ## Measure the figures that the project promises
	@$(RUN) scripts/servers.py install redis postgres memcached
	@exec $(RUN) -m bench $(ARGS)
docs: $(STAMPS)/docs ## Build the documentation into docs/_build/html
	@$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

##@ Parts of check
lint: $(STAMPS)/lint ## Rules and format (ruff)
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .
types: $(STAMPS)/lint ## Types (mypy --strict)
	@$(RUN) -m mypy
imports: $(STAMPS)/lint ## Which module may import which (import-linter)
	@$(VENV)/bin/lint-imports
migrations: $(STAMPS)/lint ## No model without its migration
	@$(RUN) -m django makemigrations --check --dry-run --skip-checks --settings tests.settings
package: $(STAMPS)/lint ## Build the distributions and check their metadata
	@rm -rf dist; output=$$($(RUN) -m build --outdir dist . 2>&1) || { echo "$$output"; exit 1; }
	@$(RUN) -m twine check --strict dist/*

##@ Besides
.PHONY: servers clean help
servers: $(STAMPS)/test ## Install the servers that the tests need and the machine lacks
	@$(RUN) scripts/servers.py install
clean: ## Remove everything that these targets made
	@rm -rf $(VENV) .venvs .fuzz build dist *.egg-info docs/_build \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
help: ## List the targets
	@awk '/^##@ / {printf "\n%s:\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {split($$0, part, ":.*## "); printf "  %-15s %s\n", part[1], part[2]}' \
		Makefile
