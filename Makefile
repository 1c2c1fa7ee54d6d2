# The recipes, the same by hand and in CI. `make demo` and `make test` need python3 (3.11 or newer), make, and the package registry.

PYTHON ?= python3
BIN := .venv/bin
DEMO := demo

.PHONY: demo test lint bench faults golden words lock clean

# The main job on sample briefs and sample subscribers, into a folder. Run it again: nothing goes out twice.
demo: .venv/installed
	@mkdir -p $(DEMO)
	@$(BIN)/newsletter subscribers add --config examples/newsletter.toml --from examples/subscribers.txt --evidence "sample subscribers of make demo"
	@$(BIN)/newsletter send daily --config examples/newsletter.toml --out $(DEMO)/preview

# What rests most on what a database does is tried on PostgreSQL, too. `make faults` tries all that touches one.
ON_BOTH := $(addprefix tests/test_,dispatch.py kill.py postgresql.py restoring.py scheduler.py)

test: .venv/installed-dev
	@$(BIN)/python tests/provision.py
	$(BIN)/python -m pytest -n 2 --dist worksteal
	$(BIN)/python -m pytest -n 2 --dist worksteal --database=postgresql -m database $(ON_BOTH)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks

# Kill and hinder real dispatches wherever they can be, and hold what arrived against the ledger. Linux; half an hour or more.
faults: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal --long -m long
	$(BIN)/python -m pytest -n 2 --dist worksteal --database=postgresql -m database
	$(BIN)/python -m faults

# Rewrite the expected outputs of the golden tests. Read the difference before you commit it.
golden: .venv/installed-dev
	UPDATE_GOLDEN=1 $(BIN)/python -m pytest -q tests -k "golden or generated"

# Collect the words of pages and notices, and bring them into each language's catalog: translate what is empty there.
words: .venv/installed
	$(BIN)/pybabel --quiet extract --mapping-file pyproject.toml --sort-output --add-location file --no-wrap --omit-header --output-file newsletter/locale/messages.pot .
	@for language in ar de; do \
		$(BIN)/pybabel --quiet update --locale $$language --input-file newsletter/locale/messages.pot --output-file newsletter/locale/$$language.po --no-wrap --no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date; \
	done

.venv/installed: requirements.lock pyproject.toml
	@echo "installing into .venv (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# Needs uv. The lock files hold names, versions and hashes, and no address of any registry.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml --extra build --output-file requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml --extra build --extra dev --output-file requirements-dev.lock

clean:
	rm -rf .venv $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache
