# One line with ## for each target that people call: `make help` shows them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BUF     := go tool -modfile=tools/buf/go.mod buf
LINT    := go tool -modfile=tools/lint/go.mod golangci-lint
SBOM    := go tool -modfile=tools/sbom/go.mod cyclonedx-gomod
VULN    := go tool -modfile=tools/vulncheck/go.mod govulncheck
FUZZ    := internal/upstream:FuzzTeamPath internal/upstream:FuzzTokenDocument internal/upstream:FuzzRateLimitHeaders \
           internal/gateway:FuzzRequestDocument internal/gateway:FuzzPath internal/config:FuzzFile \
           internal/authn:FuzzForwardedClientCert internal/authn:FuzzBearer internal/policy:FuzzParse internal/policy:FuzzGlob \
           internal/audit:FuzzRecord
FUZZTIME ?= 60s
# Needs a C compiler, without which Go turns cgo off by itself.
RACE ?= $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)
# What the protos must stay compatible with: where this branch left main, or on main itself the commit before.
BASE ?= $(shell git rev-parse -q --verify "$$(git merge-base HEAD origin/main 2>/dev/null || git merge-base HEAD main 2>/dev/null)^{commit}" 2>/dev/null)
ifeq ($(BASE),$(shell git rev-parse -q HEAD 2>/dev/null))
BASE = $(shell git rev-parse -q --verify HEAD^ 2>/dev/null)
endif

.PHONY: help run run-cluster build test test-long chaos soak generate generate-check lint vuln sbom fuzz bench

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## Run the service against a simulator of the upstream
	@bin/teamtoken-server --simulator --log-format text

run-cluster: build ## Run two replicas that share a Redis, behind nginx, against one simulator
	@go run ./internal/cluster

build: ## Build bin/teamtoken-server
	@go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/teamtoken-server ./cmd/server

test: ## Run every test, with the race detector where there is a C compiler
	@test -n "$(RACE)" || echo "no C compiler: the tests run without the race detector"
	go vet ./...
	go test $(RACE) -timeout 15m ./...
	cd test/clients && go test $(RACE) -timeout 5m ./...

test-long: ## Run the attacks at full size against the shipped limits, h2spec, and 500 calls of each fault, for half an hour
	TEAMTOKEN_LONG=1 go test -timeout 60m -v -run 'TestAbuse|TestH2Spec|TestFaultMatrix' ./internal/e2e

CHAOS_TIME ?= 30m
CHAOS_OPERATIONS ?= 100000
chaos: ## Have callers, replicas, Redis and upstream at their worst for CHAOS_TIME or CHAOS_OPERATIONS, and check what was told; then have mutants found
	TEAMTOKEN_CHAOS_TIME=$(CHAOS_TIME) TEAMTOKEN_CHAOS_OPERATIONS=$(CHAOS_OPERATIONS) go test -timeout 90m -v -run 'TestChaos$$' ./internal/e2e
	TEAMTOKEN_LONG=1 go test -timeout 30m -v -run 'TestChaosFindsMutants' ./internal/e2e

SOAK_TIME ?= 10m
soak: ## Run at the upstream's rate limit for SOAK_TIME, with denied calls beside, and see that nothing grows
	TEAMTOKEN_SOAK_TIME=$(SOAK_TIME) go test -timeout 60m -v -run 'TestSoak$$' ./internal/e2e

generate: ## Make gen/ from proto/, and the manual of the settings
	$(BUF) generate
	go test ./internal/config -run TestManual -update

generate-check: generate ## Fail if what is committed is not what is generated
	git diff --exit-code -- gen docs/configuration.md
	@test -z "$$(git status --porcelain -- gen)" || { git status --short -- gen; exit 1; }

lint: ## Check the protos, the code and the import rules
	$(BUF) lint
	$(BUF) format --diff --exit-code
	@if git cat-file -e "$(BASE):proto" 2>/dev/null; then $(BUF) breaking --against ".git#ref=$(BASE)"; \
	 else echo 'no commit to compare the protos with: set BASE'; fi
	$(LINT) run ./...
	cd test/clients && go tool -modfile=../../tools/lint/go.mod golangci-lint run --config ../../.golangci.yml ./...

vuln: ## Check that the modules are what go.sum says, and look for known vulnerabilities, where their database can be reached
	go mod verify
	@out=$$($(VULN) ./... 2>&1); code=$$?; echo "$$out"; \
	 if [ $$code -ne 0 ] && grep -q 'fetching vulnerabilities' <<<"$$out"; then echo 'the database cannot be reached: not checked'; else exit $$code; fi

sbom: ## Write bin/teamtoken-server.cdx.json, the modules that the program is made of (CycloneDX)
	@mkdir -p bin
	$(SBOM) app -json -std -main cmd/server -output bin/teamtoken-server.cdx.json .

fuzz: ## Run each fuzz target for FUZZTIME
	@for target in $(FUZZ); do \
	   go test ./$${target%%:*} -run '^$$' -fuzz "^$${target##*:}$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x || exit 1; done

bench: ## Compare the cost of a call with bare servers, as ratios, and measure what knowing callers and one change at a time add
	go run ./internal/bench
	go test ./internal/interceptor ./internal/service -run '^$$' -bench Added
