# One line with ## for each target that people call: `make help` shows them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BUF     := go tool -modfile=tools/buf/go.mod buf
LINT    := go tool -modfile=tools/lint/go.mod golangci-lint
# Run by this machine, about a program for Linux: it has every module that those for other platforms have.
SBOM    := go run -modfile=tools/sbom/go.mod -exec 'env CGO_ENABLED=0 GOOS=linux GOARCH=amd64' github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
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

.PHONY: help run run-cluster build image release check test test-clients generate-clients test-long chaos mesh soak generate generate-check lint vuln sbom fuzz bench

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## Run the service against a simulator of the upstream
	@bin/teamtoken-server --simulator --log-format text

run-cluster: build ## Run two replicas that share a Redis, behind nginx, against one simulator
	@go run ./internal/cluster

BUILD = go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
build: ## Build bin/teamtoken-server, and bin/teamtoken, the command line
	@$(BUILD) -o bin/teamtoken-server ./cmd/server
	@$(BUILD) -o bin/teamtoken ./cmd/teamtoken

# What is given away is the same, bit for bit, wherever a commit is built with one version of Go; archives need GNU tar and gzip.
DIST      ?= dist
REVISION  ?= $(shell git rev-parse HEAD 2>/dev/null)
EPOCH     := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null),0)
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
IMAGES    ?= $(filter linux/%,$(PLATFORMS))
program    = $(DIST)/$(subst /,-,$(1))/teamtoken-server
build_for  = for p in $(1); do echo "building $$p"; \
	for c in server teamtoken; do \
	  CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p\#*/} $(BUILD) -buildvcs=false -o $(DIST)/$${p/\//-}/$$( [ $$c = server ] && echo teamtoken-server || echo $$c) ./cmd/$$c || exit 1; \
	done; done

image: ## Make the OCI image of IMAGES, an archive in DIST, without a container engine
	@$(call build_for,$(IMAGES))
	@cd tools/image && go run . -out $(abspath $(DIST))/teamtoken-$(VERSION).oci.tar -version $(VERSION) -revision '$(REVISION)' -time $(EPOCH) \
	   $(foreach p,$(IMAGES),$(p)=$(abspath $(call program,$(p))))
	@$(MAKE) -s sbom SBOM_FILE=$(DIST)/teamtoken-$(VERSION).cdx.json

release: image ## Make archives of the program for PLATFORMS, the image, an SBOM and checksums, in DIST
	@$(call build_for,$(filter-out $(IMAGES),$(PLATFORMS)))
	@set -o pipefail; for p in $(PLATFORMS); do \
	   tar --format=ustar --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime=@$(EPOCH) -c \
	     -C '$(abspath $(DIST))'/$${p/\//-} teamtoken teamtoken-server -C '$(CURDIR)' README.md $(wildcard CHANGELOG.md LICENSE) | gzip -n9 \
	     > $(DIST)/teamtoken-$(VERSION)-$${p/\//-}.tar.gz || exit 1; done
	@cd $(DIST) && sha256sum $(patsubst %,teamtoken-$(VERSION)-%.tar.gz,$(subst /,-,$(PLATFORMS))) teamtoken-$(VERSION){.cdx.json,.oci.tar} \
	   > SHA256SUMS && cat SHA256SUMS

# What check lints: packages of this module in which a file differs from where this branch left main, committed or not.
SINCE   ?= $(shell git merge-base HEAD origin/main 2>/dev/null || git merge-base HEAD main 2>/dev/null || echo HEAD)
CHANGED  = $(patsubst %,./%,$(sort $(dir $(filter-out test/% tools/%,$(shell \
	git diff --name-only --diff-filter=d $(SINCE) -- '*.go'; git ls-files --others --exclude-standard -- '*.go')))))
# Those of internal/bench and internal/cluster, as those of internal/e2e, build programs and run them.
UNIT     = $$(go list ./... | grep -vE '/internal/(e2e|bench|cluster)')
check: build ## Check while one works, in a minute: build, vet, lint of what changed, unit tests, each parity case once
	@go vet ./...
	@if [ -n "$(CHANGED)" ]; then $(LINT) run $(CHANGED); fi
	@go test $(UNIT)
	@go test -count=1 -run '(TestParity|TestParityIsComplete)$$/./(grpc|rest)/plain' ./internal/e2e/surface

# Of the tests of the built program, the programs have the race detector and the tests themselves do not: they would take
# the processors from them and find nothing there. Those that measure time or flood a listener run when nothing else does. Go cannot know that
# what they build has changed: hence -count=1.
E2E_BESIDE = surface identity replicas clients
E2E_ALONE  = harness operations limits deploy chaos
E2E        = TEAMTOKEN_TEST_RACE=$(if $(RACE),1) go test -count=1 -parallel 4 -timeout 20m
test: ## Run every test, with the race detector where there is a C compiler
	@test -n "$(RACE)" || echo "no C compiler: the tests run without the race detector"
	go vet ./...
	go test -count=1 $(RACE) -timeout 10m $$(go list ./... | grep -v /internal/e2e)
	$(E2E) -p 2 $(addprefix ./internal/e2e/,$(E2E_BESIDE))
	$(E2E) -p 1 $(addprefix ./internal/e2e/,$(E2E_ALONE))
	cd test/clients && go test -count=1 $(RACE) -timeout 5m ./...
	cd test/deploy && go test -count=1 -timeout 5m ./...
	cd tools/image && go test -count=1 -timeout 5m ./...

test-clients: ## Build, install and play through the clients of every language, the command line and the page of the REST surface
	go test -timeout 20m -v -run 'TestGoClient|TestPythonClient|TestTypeScriptClient|TestJavaClient|TestCommandLine|TestCompletion|TestRecipes|TestDocsPage' ./internal/e2e/clients
	go test ./client
	cd test/clients && go test -count=1 -timeout 5m ./...

generate-clients: ## Make what is generated of clients/ from proto/; needs what clients/python/workshop.txt and npm ci install
	$(BUF) generate --template clients/python/buf.gen.yaml
	$(BUF) generate --template clients/typescript/buf.gen.yaml
	cp client/service_config.json clients/python/src/teamtoken/
	(printf 'export const serviceConfig = '; cat client/service_config.json) >clients/typescript/src/gen/service_config.ts

test-long: ## Run the attacks at full size against the shipped limits, h2spec, and 500 calls of each fault, for half an hour
	TEAMTOKEN_LONG=1 go test -timeout 60m -v -run 'TestAbuse|TestH2Spec|TestFaultMatrix' ./internal/e2e/limits ./internal/e2e/chaos

CHAOS_TIME ?= 30m
CHAOS_OPERATIONS ?= 100000
chaos: ## Have callers, replicas, Redis and upstream at their worst for CHAOS_TIME or CHAOS_OPERATIONS, and check what was told; then have mutants found
	TEAMTOKEN_CHAOS_TIME=$(CHAOS_TIME) TEAMTOKEN_CHAOS_OPERATIONS=$(CHAOS_OPERATIONS) go test -timeout 90m -v -run 'TestChaos$$' ./internal/e2e/chaos
	TEAMTOKEN_LONG=1 go test -timeout 30m -v -run 'TestChaosFindsMutants' ./internal/e2e/chaos

MESH_TIME ?= 2m
mesh: ## Have 50 calls a second go through a real Envoy for MESH_TIME, while replicas are replaced, certificates rotate and Redis restarts
	TEAMTOKEN_MESH_TIME=$(MESH_TIME) go test -timeout 30m -v -run 'TestMesh$$' ./internal/e2e/deploy

SOAK_TIME ?= 10m
soak: ## Run at the upstream's rate limit for SOAK_TIME, with denied calls beside, and see that nothing grows
	TEAMTOKEN_SOAK_TIME=$(SOAK_TIME) go test -timeout 60m -v -run 'TestSoak$$' ./internal/e2e/limits

generate: ## Make gen/ and docs/reference/ from proto/, and the manual of the settings
	$(BUF) generate
	go test ./internal/config -run TestManual -update

generate-check: generate ## Fail if what is committed is not what is generated
	git diff --exit-code -- gen docs/configuration.md docs/reference
	@test -z "$$(git status --porcelain -- gen docs/reference)" || { git status --short -- gen docs/reference; exit 1; }

lint: ## Check the protos, the code and the import rules
	$(BUF) lint
	$(BUF) format --diff --exit-code
	@if git cat-file -e "$(BASE):proto" 2>/dev/null; then $(BUF) breaking --against ".git#ref=$(BASE)"; \
	 else echo 'no commit to compare the protos with: set BASE'; fi
	$(LINT) run ./...
	@for module in test/clients test/deploy tools/image tools/sbom; do echo "$$module"; \
	   (cd $$module && go tool -modfile=../../tools/lint/go.mod golangci-lint run --config ../../.golangci.yml ./...) || exit 1; done

# Without its database the check passes and says that it did not look; VULN_REQUIRED=1 fails then. UNCHECKED is
# a file to which what was not checked is added, for .ci/run.
UNCHECKED_VULN = NOT CHECKED: known vulnerabilities (database unreachable)
vuln: ## Check that the modules are what go.sum says, and look for known vulnerabilities; fail without their database if VULN_REQUIRED=1
	go mod verify
	@out=$$($(VULN) ./... 2>&1); code=$$?; echo "$$out"; \
	 if [ $$code -eq 0 ] || ! grep -q 'fetching vulnerabilities' <<<"$$out"; then exit $$code; fi; \
	 echo '$(UNCHECKED_VULN)'; \
	 if [ -n "$(filter-out 0,$(VULN_REQUIRED))" ]; then exit 1; fi; \
	 if [ -n "$(UNCHECKED)" ]; then echo '$(UNCHECKED_VULN)' >>"$(UNCHECKED)"; fi

SBOM_FILE ?= bin/teamtoken-server.cdx.json
sbom: ## Write SBOM_FILE, the modules that the program is made of (CycloneDX)
	@mkdir -p $(dir $(SBOM_FILE))
	$(SBOM) app -json -std -noserial -main cmd/server -output $(SBOM_FILE) .
	@cd tools/sbom && go run . -time $(EPOCH) $(abspath $(SBOM_FILE))

fuzz: ## Run each fuzz target for FUZZTIME
	@for target in $(FUZZ); do \
	   go test ./$${target%%:*} -run '^$$' -fuzz "^$${target##*:}$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x || exit 1; done

bench: ## Compare the cost of a call with bare servers, as ratios, and measure what knowing callers and one change at a time add
	go run ./internal/bench
	go test ./internal/interceptor ./internal/service -run '^$$' -bench Added
