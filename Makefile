# Everything that is done with this repository: `make help` lists it.
#
# Each target sets up what it needs. Variables:
#   PYTHON       the interpreter to start from, 3.11 or later (default: python3)
#   MUTANTS      what tools/mutants.py gets: how many, a seed, modules
#   PYTEST_ARGS  what pytest gets besides, for instance: make test PYTEST_ARGS='-k pubsub -x'

PYTHON ?= python3
PYTEST_ARGS ?=
PYTHONS := 3.11 3.12 3.13

VENV := .venv
BIN := $(VENV)/bin
# The stamps carry the interpreter's version, so that another PYTHON makes the environment anew.
PYTHON_ID := $(shell $(PYTHON) -c 'import sys; print("%s-%d.%d" % (sys.implementation.name, sys.version_info[0], sys.version_info[1]))' 2>/dev/null)
RUNS := $(VENV)/.installed-codegen-$(PYTHON_ID)
DEVELOPS := $(VENV)/.installed-dev-$(PYTHON_ID)

# What the type checkers read. The linter reads everything that git knows.
TYPED := txzmq twisted codegen/txzmq_codegen tests examples benchmarks tools docs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(RUNS): pyproject.toml tools/make-venv
	@echo "== setting up $(VENV)"
	@tools/make-venv $(PYTHON) $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[codegen]'
	@touch $@

$(DEVELOPS): $(RUNS)
	@echo "== setting up $(VENV) for development"
	@$(BIN)/python -m pip install --quiet --editable '.[codegen]' --group dev
	@touch $@

.PHONY: demo
demo: $(RUNS)  ## generate the demo's code, start a server, call it from a client
	$(BIN)/python -m txzmq.codegen protos/
	$(BIN)/python -m examples.demo

.PHONY: example-ticker
example-ticker: $(RUNS)  ## a ticker with 1,000 subscribers
	$(BIN)/python -m txzmq.codegen protos/
	$(BIN)/python -m examples.ticker

.PHONY: example-jobs
example-jobs: $(RUNS)  ## a job queue with workers that call it, one of which is killed
	$(BIN)/python -m txzmq.codegen protos/
	$(BIN)/python -m examples.jobs

.PHONY: example-chat
example-chat: $(DEVELOPS)  ## a chat with a page for browsers, at http://127.0.0.1:8080
	$(BIN)/python -m txzmq.codegen protos/
	$(BIN)/python -m examples.chat

.PHONY: venv
venv: $(DEVELOPS)  ## set up .venv with everything that development needs

.PHONY: test
test: $(DEVELOPS)  ## run all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Of all processes that the tests start, too. The total counts lines and branches together.
.PHONY: coverage
coverage: $(DEVELOPS)  ## run all tests, and report the lines and branches of txzmq that none takes
	@rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/python -m coverage run -m pytest $(PYTEST_ARGS)
	@$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# Properties that are tried with other examples each time, and with many more of them.
.PHONY: test-long
test-long: $(DEVELOPS)  ## play the games of calls, streams, servers, supervisors and broken wires 50 times as long, at random
	TXZMQ_TEST_EXAMPLES=50 $(BIN)/python -m pytest -o faulthandler_timeout=3600 \
		tests/rpc/test_stateful.py tests/rpc/test_stateful_streams.py tests/rpc/test_hostile_streams.py \
		tests/serve/test_supervisor_game.py $(PYTEST_ARGS)

.PHONY: test-restarts
test-restarts: $(DEVELOPS)  ## restart two servers under load, 200 times, and lose no call
	TXZMQ_RESTARTS=200 $(BIN)/python -m pytest -s -o faulthandler_timeout=3600 \
		tests/rpc/test_restarts.py $(PYTEST_ARGS)

.PHONY: test-rolls
test-rolls: $(DEVELOPS)  ## replace the processes of txzmq serve under load, 100 times; then kill some at random for a minute
	TXZMQ_ROLLS=100 TXZMQ_KILLS=60 $(BIN)/python -m pytest -s -o faulthandler_timeout=7200 \
		tests/serve/test_serving.py -k 'roll_under_load or whatever_happens' $(PYTEST_ARGS)

.PHONY: test-mixed
test-mixed: $(DEVELOPS)  ## run this version and an older one against each other, both ways
	$(BIN)/python -m pytest tests/compat $(PYTEST_ARGS)

# They are installed into build/foreign, and from Debian.
.PHONY: test-clients
test-clients: $(DEVELOPS)  ## have clients of other makers call the gateways: Node, Go, a browser, curl, nginx
	tools/foreign-clients
	$(BIN)/python -m pytest -o faulthandler_timeout=600 tests/foreign $(PYTEST_ARGS)

.PHONY: test-streams
test-streams: $(DEVELOPS)  ## stream a million items, cut the connections 200 times, and lose nothing
	TXZMQ_STREAM_ITEMS=1000000 TXZMQ_STREAM_CUTS=200 $(BIN)/python -m pytest \
		-o faulthandler_timeout=1800 tests/field/test_streams.py -k nothing_is_lost $(PYTEST_ARGS)

# The seed is printed; the same one makes the same calls and faults, not at the same moments.
SECONDS := 1200
SEED :=
.PHONY: soak
soak: $(DEVELOPS)  ## all kinds of call while processes and wires break; make soak SECONDS=300 SEED=7
	$(BIN)/python -m tests.field.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# For instance: make mutants MUTANTS='--count 30 --seed 7 txzmq/rpc/_wire'
MUTANTS :=
.PHONY: mutants
mutants: $(DEVELOPS)  ## break the core in 100 small ways, and tell which of them no test notices
	$(BIN)/python -m tools.mutants $(MUTANTS)

# libFuzzer and its Python, in an environment of its own. What it finds lies in build/fuzz; try it
# again with: .venv-fuzz/bin/python -m tests.fuzz set build/fuzz/set/crash-...
.venv-fuzz/.installed: pyproject.toml tools/make-venv
	@echo "== setting up .venv-fuzz"
	@tools/make-venv $(PYTHON) .venv-fuzz
	@.venv-fuzz/bin/python -m pip install --quiet --editable '.[codegen]' --group fuzz
	@touch $@

FUZZ_SECONDS := 60
# All that there are, unless they are named: make fuzz TARGETS='server client'.
TARGETS :=
.PHONY: fuzz
fuzz: .venv-fuzz/.installed  ## give every parser of foreign bytes broken ones; make fuzz FUZZ_SECONDS=600 for longer
	@for target in $(or $(TARGETS),$$(.venv-fuzz/bin/python -m tests.fuzz --list)); do \
		echo "== $$target"; \
		.venv-fuzz/bin/python -m tests.fuzz $$target --seconds $(FUZZ_SECONDS) || exit 1; \
	done

.PHONY: format
format: $(DEVELOPS)  ## format the code, and mend what the linter can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: lint
lint: $(DEVELOPS)  ## ruff: the code's format and the rules in pyproject.toml
	$(BIN)/ruff format --check
	$(BIN)/ruff check

# The examples import the package that `make demo` generates.
generated: $(RUNS) $(shell find protos codegen -name '*.proto' -o -name '*.py')
	$(BIN)/python -m txzmq.codegen protos/
	@touch $@

# So does that of validation, with buf/validate generated along.
VALIDATION := examples/validation
$(VALIDATION)/generated: $(RUNS) $(shell find examples/validation codegen -name '*.proto' -o -path 'codegen/*' -name '*.py')
	$(BIN)/python -m txzmq.codegen $(VALIDATION)/protos --include $(VALIDATION)/third_party \
		--include-imports --output $@
	@touch $@

.PHONY: validation-demo
validation-demo: $(DEVELOPS) $(VALIDATION)/generated  ## requests that break the rules in their protos, and what is answered
	$(BIN)/python -m examples.validation

.PHONY: types
types: $(DEVELOPS) generated $(VALIDATION)/generated  ## mypy --strict and pyright strict
	$(BIN)/mypy --strict $(TYPED)
	$(BIN)/pyright --project pyproject.toml $(TYPED)
	$(BIN)/python -m tools.tutorial_types

# The checked-in modules must load on the oldest protobuf that pyproject.toml allows, so the oldest
# compiler that it allows writes them.
.venv-protos/.installed: pyproject.toml tools/make-venv tools/oldest.py
	@echo "== setting up .venv-protos"
	@tools/make-venv $(PYTHON) .venv-protos
	@.venv-protos/bin/python tools/oldest.py >.venv-protos/constraints.txt
	@.venv-protos/bin/python -m pip install --quiet grpcio-tools mypy-protobuf protobuf setuptools \
		--constraint .venv-protos/constraints.txt
	@touch $@

GENERATE := PYTHONPATH=codegen .venv-protos/bin/python -m txzmq_codegen
GENERATE_OWN := $(GENERATE) protos/txzmq/rpc/v1 --include protos --output . --imports absolute
# The standard services, in a descriptor pool of their own.
GENERATE_GRPC := $(GENERATE) third_party --output txzmq/rpc/_services \
	--pool txzmq.rpc._services.pool

.PHONY: generate
generate: .venv-protos/.installed  ## generate the checked-in code anew, from protos/ and third_party/
	$(GENERATE_OWN) --prune
	$(GENERATE_GRPC) --prune

.PHONY: check-generated
check-generated: .venv-protos/.installed  ## fail where the checked-in code is not what the protos generate
	$(GENERATE_OWN) --check --diff
	$(GENERATE_GRPC) --check --diff

# What cog writes stands between comments, which are none of cog's own: code may have those. It takes
# options in front of the files only.
PUT_TEXT = $(BIN)/cog $(1) -P -p 'from tools.snippets import code, text' -I . --verbosity=1 \
	--markers '<!--{{{ }}}--> <!--end-->' --check-fail-msg 'write it anew: make docs-text' \
	$$(grep -rl --include='*.md' '^<!--{{{' docs)

.PHONY: docs-text
docs-text: $(DEVELOPS)  ## write into the pages what they have of other files
	$(call PUT_TEXT,-r)

.PHONY: diagrams
diagrams: $(DEVELOPS)  ## draw docs/diagrams/*.svg anew, of the text beside them
	$(BIN)/python -m tools.diagrams

.PHONY: screenshots
screenshots: $(DEVELOPS)  ## take docs/screenshots/*.svg anew, of txzmq's own program
	$(BIN)/python -m tools.screenshots

.PHONY: docs
docs: $(DEVELOPS)  ## build the documentation into docs/_build/html; a warning is an error
	$(call PUT_TEXT,--check)
	$(BIN)/sphinx-build -W --keep-going -n -q -E -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# It needs npm, and Chromium: Debian's, or the one that CHROMIUM names.
build/docs-check/.installed: tools/docs-check/package.json tools/docs-check/package-lock.json
	mkdir -p $(@D)
	cp $^ $(@D)
	npm ci --no-fund --no-audit --silent --prefix $(@D)
	@touch $@

# For instance: make docs-check PAGES='guide/serve.html promises'
PAGES :=
.PHONY: docs-check
docs-check: docs build/docs-check/.installed  ## look at each page in Chromium: WCAG 2 AA, phone and desktop, light and dark, keyboard
	node tools/docs-check/check.mjs docs/_build/html $(PAGES)

.PHONY: wheel
wheel: $(DEVELOPS)  ## build sdist and wheel into dist/
	$(BIN)/python -m build --outdir dist .

.PHONY: wheel-test
wheel-test: $(DEVELOPS)  ## build sdist and wheel, install them elsewhere, use them there
	$(BIN)/python tools/wheel_test.py

.PHONY: release
release: $(DEVELOPS)  ## make sdist, wheel, list of packages and tag of a release, for a person to push
	$(BIN)/python -m tools.release

.PHONY: release-check
release-check: $(DEVELOPS)  ## do all that make release does, but for the tag, and keep nothing
	$(BIN)/python -m tools.release --dry-run

.PHONY: bench
bench: $(DEVELOPS)  ## measure txzmq beside grpc.aio, grpclib, AMP and bare pyzmq
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.imports
	$(BIN)/python -m benchmarks.streams --most 100

.PHONY: bench-streams
bench-streams: $(DEVELOPS)  ## measure streams alone, beside grpc.aio; writes pages of docs/performance/
	$(BIN)/python -m benchmarks.streams --write

.PHONY: bench-secure
bench-secure: $(DEVELOPS)  ## measure what keys cost, beside none and beside grpc.aio with mutual TLS
	$(BIN)/python -m benchmarks.secure

.PHONY: bench-proxies
bench-proxies: $(DEVELOPS)  ## measure calls through a relay and through a plain proxy, beside direct ones
	$(BIN)/python -m benchmarks.proxies

# What it needs it installs from Debian and npm, where this may, and builds in build/native.
.PHONY: bench-native
bench-native: $(DEVELOPS)  ## measure txzmq beside gRPC in C++, Go and Node; writes a page of docs/performance/
	tools/native-peers
	$(BIN)/python -m benchmarks.native --write

.PHONY: bench-gateway
bench-gateway: $(DEVELOPS)  ## measure calls through gateways, beside servers of the same protocols
	$(BIN)/python -m benchmarks.gateway

.PHONY: bench-observers
bench-observers: $(DEVELOPS)  ## measure what a call costs more on each side where it is observed
	$(BIN)/python -m benchmarks.observers

.PHONY: bench-field
bench-field: $(DEVELOPS)  ## measure how soon failures are told and mended, in network namespaces (root)
	$(BIN)/python -m tests.field.measure

.PHONY: bench-codegen
bench-codegen: $(DEVELOPS)  ## measure the generator beside protoc and mypy-protobuf alone
	$(BIN)/python -m benchmarks.codegen

.PHONY: bench-layers
bench-layers: $(DEVELOPS)  ## measure where the time of a call goes, layer by layer
	$(BIN)/python -m benchmarks.layers

.PHONY: bench-memory
bench-memory: $(DEVELOPS)  ## measure what calls and idle streams cost in memory, and a million calls
	$(BIN)/python -m benchmarks.memory

.PHONY: bench-scale
bench-scale: $(DEVELOPS)  ## measure how cost grows with calls, endpoints, clients, sizes, methods and processes
	$(BIN)/python -m benchmarks.scale

.PHONY: bench-instructions
bench-instructions: $(DEVELOPS)  ## count the instructions of a call, and compare with the last record
	$(BIN)/python -m benchmarks.instructions

# One environment per interpreter, .venv-3.12 and so on.
.venv-3.%/.installed: pyproject.toml tools/make-venv tools/find-python
	@echo "== setting up .venv-3.$*"
	@python=$$(tools/find-python 3.$*) && tools/make-venv "$$python" .venv-3.$*
	@.venv-3.$*/bin/python -m pip install --quiet --editable '.[codegen]' --group test --group lint
	@touch $@

.PRECIOUS: .venv-3.%/.installed
test-python-3.%: .venv-3.%/.installed
	@echo "== the tests on Python 3.$*"
	.venv-3.$*/bin/python -m pytest $(PYTEST_ARGS)

.PHONY: test-recipes
test-recipes: $(DEVELOPS)  ## run the recipes of docs/guide/testing.md for pytest-asyncio and pytest-twisted
	rm -rf build/recipes
	$(BIN)/python -m pip install --quiet --no-deps --target build/recipes 'pytest-asyncio>=1.2' \
		'pytest-twisted>=1.14' decorator greenlet
	TXZMQ_TEST_PLUGINS=$(CURDIR)/build/recipes $(BIN)/python -m pytest tests/testing/test_testing_examples.py

.PHONY: test-pythons
test-pythons: $(PYTHONS:%=test-python-%)  ## run all tests on each CPython that txzmq supports

.venv-oldest/.installed: pyproject.toml tools/make-venv tools/find-python tools/oldest.py
	@echo "== setting up .venv-oldest"
	@python=$$(tools/find-python $(firstword $(PYTHONS))) && tools/make-venv "$$python" .venv-oldest
	@.venv-oldest/bin/python tools/oldest.py >.venv-oldest/constraints.txt
	@.venv-oldest/bin/python -m pip install --quiet --editable '.[codegen]' --group test --group lint \
		--constraint .venv-oldest/constraints.txt
	@touch $@

.PHONY: test-oldest
test-oldest: .venv-oldest/.installed  ## run all tests on the oldest dependencies that pyproject.toml allows
	@cat .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pytest $(PYTEST_ARGS)

# Upgraded each time, what other packages ask for, too.
.PHONY: test-newest
test-newest:  ## run all tests on the newest dependencies that there are
	@echo "== setting up .venv-newest"
	@python=$$(tools/find-python $(lastword $(PYTHONS))) && tools/make-venv "$$python" .venv-newest
	@.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager \
		--editable '.[codegen]' --group test --group lint
	@.venv-newest/bin/python -m pip freeze --exclude-editable
	.venv-newest/bin/python -m pytest $(PYTEST_ARGS)

.PHONY: test-pypy
test-pypy:  ## run the tests on PyPy 3.11, in a Debian of its own under build/ (root, Debian or Ubuntu)
	PYTEST_ARGS='$(PYTEST_ARGS)' tools/test-pypy

.PHONY: test-multicast
test-multicast:  ## run the multicast tests on a pyzmq built against the system's libzmq
	PYTHON='$(PYTHON)' tools/test-multicast

.PHONY: clean
clean:  ## remove what the other targets made, but not .venv
	rm -rf build dist generated $(VALIDATION)/generated docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf .venv-*
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean  ## remove .venv too
	rm -rf $(VENV)
