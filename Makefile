# What people type. `check` never edits, `format` does.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo lab sandbox sandbox-plain sandbox-stop sandbox-status test drills crash-matrix check format outputs bench lock clean

help: ## show these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 18

.venv/operator: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

.venv/tester: tests/requirements.txt .venv/operator
	$(BIN)/pip install --quiet --no-deps --requirement tests/requirements.txt
	touch $@

demo: .venv/tester ## restart the API of the stand-in under traffic, and show the record
	$(BIN)/python -m tests.demo

lab: .venv/operator ## open the procedures in JupyterLab, on loopback
	$(BIN)/python -m opslib.runbook.lab

sandbox: .venv/tester ## start the stand-in
	$(BIN)/python -m tests.sandbox start

sandbox-plain: .venv/tester ## start the stand-in, and beside it the plain one: PropertyPulse as nobody has prepared it
	$(BIN)/python -m tests.sandbox start --plain $(if $(INSTANCES),--instances $(INSTANCES))

sandbox-stop: .venv/tester ## stop the stand-in, the plain one too, and delete their state
	$(BIN)/python -m tests.sandbox stop

sandbox-status: .venv/tester ## say how the stand-in is, and the plain one where it was started
	$(BIN)/python -m tests.sandbox status

test: .venv/tester ## run all tests but the long drills, in shards side by side
	$(BIN)/python -m tests.shards

crash-matrix: .venv/tester ## kill the rotations at every step, or SAMPLE=2 of each stage, run each again; about forty minutes
	$(BIN)/python -m tests.crash_shards $(if $(SAMPLE),--sample $(SAMPLE))

drills: .venv/tester ## run the long drills of every procedure on the stand-in, in shards side by side
	$(BIN)/python -m tests.shards -m long $(if $(ONLY),-k $(ONLY))

check: .venv/tester ## lint, type-check, and hold the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/tester ## format and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

outputs: .venv/tester ## run every notebook's plan on the stand-in and store the outputs in the sources
	$(BIN)/python -m tests.outputs

bench: .venv/tester ## measure speed and losses beside the peers, or only PARTS=rotations; about twenty-five minutes
	$(BIN)/python -m tests.bench $(PARTS)

lock: .venv/tester ## pin anew what pyproject.toml asks for
	$(BIN)/uv pip compile --quiet --no-emit-index-url --no-header --upgrade pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --no-emit-index-url --no-header -c requirements.txt --extra test pyproject.toml -o tests/requirements.txt

clean: ## stop the stand-in and remove what was installed
	if [ -x $(BIN)/python ]; then $(BIN)/python -m tests.sandbox stop; fi
	rm -rf .venv tests/sandbox/node_modules
