# vpngw: `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

export CGO_ENABLED ?= 0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TOOL    := go tool -modfile=deploy/tools/go.mod
FUZZTIME ?= 5s
MUTATIONS ?= 20000000
SOAK ?= 1
BENCH_SECONDS ?= 10

# Packages whose tests need root and make network namespaces of their own.
NETNS_PACKAGES := ./dataplane/... ./sslvpn/... ./cmd/... ./deploy/netlab

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install the Debian packages that run and test need
	@deploy/deps.sh

.PHONY: build
build: ## build bin/vpngwd, bin/vpnctl and bin/vpnbench (static)
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/...

.PHONY: run
run: deps build ## show a tunnel to strongSwan and an OpenVPN client, with traffic (ONCE=1: then end)
	go run ./deploy/lab $(if $(ONCE),--once)

.PHONY: test
test: deps build lint unit race etcd netns sdk e2e interop ## everything that CI runs
# What is left makes use of one processor each, so two run at a time; each prints its output when it ends.
	GOMAXPROCS=1 $(MAKE) --no-print-directory --jobs=2 --output-sync=line fuzz uml qemu
	@echo "all tests ran; nothing was skipped"

.PHONY: unit
unit: ## unit tests, no root needed
	go test -shuffle=on ./...

.PHONY: race
race: ## unit tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -vet=off -shuffle=on ./...

.PHONY: netns
netns: ## package tests that need root and network namespaces
	go test -tags netns -run 'NetNS' -count=1 $(NETNS_PACKAGES)

.PHONY: etcd
etcd: ## faults of a real etcd under the store
	go test -tags etcd -count=1 -run 'Kill|MembersLost|MemberWithoutLeader' ./control/store/etcd

.PHONY: sdk
sdk: build ## the official Go SDK against the daemon
	cd deploy/sdktest && go test -count=1 ./...

.PHONY: e2e
e2e: build ## scenarios against strongSwan and OpenVPN in network namespaces (root)
	go test -tags e2e -count=1 -timeout 30m -parallel 4 ./deploy/e2e/...

.PHONY: interop
interop: build ## the matrix of tunnels to strongSwan in userspace, and ike-scan (root)
	go test -tags e2e -count=1 -timeout 15m ./deploy/interop/

.PHONY: uml uml-xfrm uml-e2e uml-interop
uml: uml-xfrm uml-e2e uml-interop ## kernel ESP, of ours and of peers, in user-mode Linux (root)
uml-xfrm:
	deploy/e2e/uml.sh -t 400 test ipsec/xfrm -test.parallel 16 -test.run 'Conformance|Traffic/(route|to|from)|Early|Bandwidth|SegmentSize'
uml-e2e: build
	deploy/e2e/uml.sh test deploy/e2e
uml-interop: build
	deploy/e2e/uml.sh -m 1536M -t 1500 test deploy/interop

.PHONY: qemu
qemu: ## kernel ESP with XFRM interfaces, under Linux 6.12 in QEMU (root)
	deploy/e2e/qemu.sh test ipsec/xfrm -test.parallel 16

.PHONY: lint
lint: ## formatting, vet, golangci-lint, vpnctl for other systems, generated files, go.mod
	$(TOOL) golangci-lint run ./...
	GOOS=darwin go build -o /dev/null ./cmd/vpnctl
	GOOS=windows go build -o /dev/null ./cmd/vpnctl
	go mod tidy -diff
	deploy/check-generated.sh

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 5s), guided by its coverage
	deploy/fuzz.sh $(FUZZTIME)

.PHONY: mutations
mutations: ## every fuzz target MUTATIONS times (default 20 million; hours) with mutations of what is saved
	nice -n 19 env VPNGW_MUTATIONS=$(MUTATIONS) go test -p 1 -count=1 -timeout 72h -v -run '^Fuzz' ./...

.PHONY: soak
soak: build ## what test does at random, for longer: an hour (SOAK=N: N hours)
	deploy/fuzz.sh $$((20 * $(SOAK)))s
	CGO_ENABLED=1 go test -race -vet=off -shuffle=on -count=$$((2 * $(SOAK))) -timeout 2h ./...
	go test -tags e2e -count=$$((3 * $(SOAK))) -parallel 4 -timeout 12h -skip 'KillUnderWrites|FleetFaults' ./deploy/e2e/...
	VPNGW_E2E_KILLS=$$((100 * $(SOAK))) VPNGW_FAULTS=$$((500 * $(SOAK))) \
		go test -tags e2e -count=1 -timeout 12h -run 'KillUnderWrites|FleetFaults' ./deploy/e2e/...

.PHONY: model
model: ## the whole collision model of two IKE machines (minutes); make unit explores a part
	VPNGW_MODEL=full go test -v -count=1 -timeout 2h -run 'TestModel|TestV1Model' ./ike/sa

.PHONY: bench
bench: deps build ## micro benchmarks and the comparison with peers
	go test -run '^$$' -bench . -benchmem ./ipsec/... ./dataplane/... ./ike/... ./sslvpn
	bin/vpnbench esp --seconds $(BENCH_SECONDS)

.PHONY: generate
generate: ## regenerate what is generated: the API from openapi.yaml, docs/edits.md
	go generate ./...

.PHONY: clean
clean: ## remove build results
	rm -rf bin
