# Each target is one command a person could type; `make help` lists them.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv deps lint test test-fast test-vm run install uninstall plugin lock demo bench docs dist clean root

# Tests start pynet a thousand times: let Python keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

# The first interpreter that is new enough and can make a virtual environment.
PYTHON ?= $(shell tests/lab/packages.sh --python)
PREFIX ?= /usr/local
ARCH ?= $(shell dpkg --print-architecture)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

venv: .venv/installed ## make .venv with pynet and its tools (Python 3.11 or newer)

.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "make venv: no Python 3.11 or newer with its venv module here;" \
		"'make deps' as root installs it on Debian 12, Ubuntu 22.04 and newer" >&2; exit 1; }
	@echo "venv: installing pynet and its tools into .venv with $(PYTHON) (half a minute)"
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@# An older pip knows no dependency groups.
	@.venv/bin/python -m pip install -qq --disable-pip-version-check 'pip>=25.1'
	@.venv/bin/python -m pip install -qq --editable . --group dev --group docs --group release
	@touch $@

deps: ## install the system packages that are missing (Debian and Ubuntu, as root)
	@tests/lab/packages.sh

lint: venv ## check style and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

test: deps lint ## run everything: lint, tests without root, in namespaces, through real engines, in a VM
	@tests/lab/packages.sh --vm || true
	@tests/all.sh

test-fast: deps venv ## without engines, and of the tests in namespaces the quick ones (4 minutes, as root)
	.venv/bin/pytest -n 3 -m "not slow" tests/unit tests/netns

test-vm: deps venv ## only the tests of ipvlan, VLANs, reboots and the service, on Debian's kernel in QEMU (as root)
	@tests/lab/packages.sh --vm || true
	.venv/bin/python -m tests.vm

run: venv ## serve this machine's own engine in the foreground (as root)
	.venv/bin/pynet serve

install: ## install pynet as a service of this host, below PREFIX=/usr/local, or upgrade it (as root)
	@PREFIX="$(PREFIX)" packaging/install.sh "$(PYTHON)"

uninstall: ## take that away again, with pynet's state (as root)
	@PREFIX="$(PREFIX)" packaging/uninstall.sh

plugin: deps venv ## build the managed plugin for `docker plugin create` in build/plugin; ARCH=arm64 for that (as root)
	@PYTHON=.venv/bin/python rootfs/build "$(ARCH)" build/plugin

lock: venv ## choose the newest Python packages that pyproject.toml allows for the managed plugin
	.venv/bin/python rootfs/lock.py

demo: root deps venv ## see pynet at work with a private Docker Engine, which goes again (as root)
	@.venv/bin/python -m tests.demo

bench: deps venv ## compare pynet with the built-in bridge, into docs/benchmark.md (a quarter of an hour, as root)
	@.venv/bin/python -m tests.bench

docs: venv ## build the site into build/site and the man page into build/man, and look for dead links
	@rm -rf build/site build/doctrees
	.venv/bin/python -m sphinx -q -W -n -d build/doctrees -b html docs build/site
	.venv/bin/python -m sphinx -q -W -n -d build/doctrees -b man docs build/man
	.venv/bin/python docs/check.py build/site

dist: plugin ## make wheel, source archive and managed plugin of the last commit, in dist/ (as root)
	@packaging/dist.sh .venv/bin/python dist build/plugin "$(ARCH)"

clean: ## remove .venv, the engines kept in .lab, and caches
	rm -rf --one-file-system .venv .lab .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

root:
	@test "$$(id -u)" = 0 || { echo "this needs root, for network namespaces: try 'sudo make demo'" >&2; exit 1; }
