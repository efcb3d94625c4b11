# `make` alone explains itself. Two targets do all their own set-up: appliance and test.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python
# Two at a time: one boots guests, the other does the rest (tests/conftest.py).
SIDE_BY_SIDE := -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: help setup appliance test check acceptance importers openstack lint types bench clean

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## install what is missing for all of these (apt and pip), into .venv
	@scripts/setup tests

appliance: ## build examples/hello, verify it, print the OVA and how to import it
	@scripts/setup
	@scripts/appliance examples/hello

test: setup ## all tests but the long matrix; a real Debian from start to end
	$(PY) -m pytest $(SIDE_BY_SIDE) -m "not acceptance and not openstack and not importers" --durations=10

check: setup ## the tests without real guests
	$(PY) -m pytest $(SIDE_BY_SIDE) -m "not acceptance and not guest and not cloud and not openstack and not importers"

acceptance: ## the long matrix: every distribution, agent, failure and cloud, on real guests and servers (hours)
	@scripts/setup acceptance
	@scripts/setup importers
	@scripts/setup openstack
	$(PY) -m pytest -m "acceptance or openstack"

importers: ## import every profile and example into the real VirtualBox and a vCenter simulator, publish to Incus (installs them)
	@scripts/setup importers
	$(PY) scripts/importers test

openstack: ## publish to the real servers of OpenStack, Keystone and Glance (installs them)
	@scripts/setup openstack
	$(PY) -m pytest -m openstack --durations=10

lint: setup ## ruff, shellcheck, man pages
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	shellcheck scripts/setup scripts/appliance .ci/run
	scripts/lint-man docs/man/*.[15]

types: setup ## mypy, strict
	.venv/bin/mypy

bench: setup ## pack a real disk (DISK=, or the newest sealed one) at every compression, beside qemu-img, sha256sum, tar
	$(PY) scripts/bench-package $(or $(DISK),$(shell ls -t $${XDG_CACHE_HOME:-$$HOME/.cache}/ovfbuild/disks/*/disk.qcow2 | head -1))

clean: ## remove what the targets above made here (the cache: ovfbuild cache prune)
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache *.egg-info
