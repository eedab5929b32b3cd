# Everything a developer or CI does is a target here; `make` lists them.

GO      ?= go
TAGS    := containers_image_openpgp
CLOUD   := $(TAGS),kms_cloud
RACE    := -race -shuffle=on -tags=$(TAGS)

FUZZTIME ?= 10s

# Flags of one's own for go test: make unit ARGS='-run TestLocks -count=20'.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help build build/cloud demo test unit e2e chaos bench bench/rooms fuzz lint fmt peers tidy verify/build verify/tidy verify/vulns clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9\/-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build both binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -tags=$(TAGS) -ldflags='-s -w' -o bin/ ./cmd/...

build/cloud: ## build them with the clients of AWS, Google and Azure for keys
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -tags=$(CLOUD) -ldflags='-s -w' -o bin/ ./cmd/...

demo: build ## sign a handful of images in a registry of its own, and verify them
	$(GO) run -tags=$(TAGS) ./test/demo

test: peers ## run all tests, with the race detector and the real peers
	$(GO) test $(RACE) -timeout 25m $(ARGS) ./...

unit: ## run the quick tests only
	$(GO) test $(RACE) -timeout 10m $(ARGS) ./internal/... ./cmd/...

e2e: peers ## run the end-to-end tests only
	$(GO) test $(RACE) -timeout 20m $(ARGS) ./test/...

chaos: peers ## torment fleets for half an hour and see that nothing is lost (ARGS='-scenario kill,nats -seed 7')
	$(GO) run -tags=$(TAGS) ./test/chaos $(ARGS)

bench: peers ## measure side by side with other signers, half an hour; ARGS='-what engines -registry tmpfs -json bench.json' a part of it
	$(GO) run -tags=$(TAGS) ./test/bench $(ARGS)

bench/rooms: ## run the benchmarks of the rooms
	$(GO) test -tags=$(TAGS) -run='^$$' -bench=. -benchmem $(ARGS) ./internal/...

fuzz: ## fuzz each decoder for a while (FUZZTIME=10s)
	@for target in $$(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' internal | cut -c6-); do \
		package="$$(grep -rlE --include='*_test.go' "^func $$target\(" internal | xargs -n1 dirname | sort -u)"; \
		echo "== $$package $$target"; \
		$(GO) test -tags=$(TAGS) -run='^$$' -fuzz="^$$target$$" -fuzztime=$(FUZZTIME) "./$$package" || exit 1; \
	done

lint: ## check style, and the arrows between the rooms
	lint="$$($(GO) run ./test/peers/install golangci-lint)" && "$$lint" config verify && "$$lint" run ./...
	@! grep -rl --include='*_test.go' 'time\.Sleep(' internal cmd test | xargs -r grep -L '"testing/synctest"' | grep . \
		|| { echo 'time.Sleep in a test is for synctest bubbles only: await a condition'; exit 1; }

fmt: ## format the code
	lint="$$($(GO) run ./test/peers/install golangci-lint)" && "$$lint" fmt ./...

peers: ## build the programs that tests talk to (minutes once, then nothing)
	@$(GO) run ./test/peers/install >/dev/null

tidy: ## bring go.mod and go.sum up to date, of the project and its tools
	$(GO) mod tidy
	$(GO) -C test/tools mod tidy
	$(GO) -C test/tools/lint mod tidy
	$(GO) -C test/tools/vulns mod tidy
	$(GO) -C test/tools/manifests mod tidy

verify/build: ## check that all builds without tags, without cgo, and with all tags
	$(GO) build ./...
	$(GO) vet ./...
	CGO_ENABLED=0 $(GO) build ./...
	CGO_ENABLED=0 $(GO) build -tags=$(TAGS) ./...
	$(GO) vet -tags=$(CLOUD) ./...
	CGO_ENABLED=0 $(GO) build -tags=$(CLOUD) ./...

verify/tidy: ## check that go.mod and go.sum are up to date
	$(GO) mod tidy -diff

# Exit status 3 is what govulncheck says of vulnerabilities that the code reaches.
# Without the database nothing is known, which is told and fails nothing.
verify/vulns: ## check the code and its dependencies for known vulnerabilities, where their database can be reached
	@vulns="$$($(GO) run ./test/peers/install govulncheck)" || exit 1; \
	out="$$("$$vulns" -tags=$(TAGS) ./... 2>&1)"; status=$$?; echo "$$out"; \
	case "$$status $$out" in \
	0\ *) ;; \
	*"fetching vulnerabilities: "*) echo 'NOT CHECKED: the database of vulnerabilities cannot be reached from here' ;; \
	*) exit $$status ;; \
	esac

clean: ## remove what was built, but not the peers
	rm -rf bin coverage
