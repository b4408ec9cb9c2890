# agent - one static binary. New sources and tests need no registration: the wildcards find them.
#
#   make                 build/agent (static-pie, stripped) and build/agent.debug (with symbols)
#   make unit [T=test_json]            unit tests under ASan and UBSan
#   make unit-tsan                     the same under ThreadSanitizer
#   make coverage [FILE=common/str.c]  lines that the unit tests run
#   make fuzz-smoke                    every fuzz target, FUZZ_RUNS executions each
#   make fuzz TARGET=http1 SECONDS=60  one fuzz target, for a time
#   make sim [SIM_ARGS='--seed 7']     thousands of nodes on a virtual clock
#   make soak SEEDS=100                gossip's scenarios with as many seeds
#   make soak MINUTES=30 [SEED=n]      five nodes under load, a fault every two seconds; the table at the end
#   make system [K=expression]         pytest against build/agent
#   make static                        structural checks, format, linters
#   make check                         installs what the tests need, then all of the above (root)
#   make check-vm [GUEST=base]         the virtual machine lab (tests/vm)
#   make check-all                     check, check-vm and the checks that take long
#   make bench-triggers [QUICK=1]     schedules, web hooks, messages: what they cost a node
#   make bench-cluster                membership, beside memberlist
#   make check-interop                mixed clusters with Debian's Go memberlist
#   make bench-routing [QUICK=1] [DATA=dir]   placement and sizes in a simulated cluster, against goals
#   make demo-routing                  a cluster of real agents that differ; who runs what (root)
#   make bench | demo | demo-cluster | install DESTDIR= PREFIX= | deb | format | clean
#
# Variables: B (build directory), CC (gcc or clang), WERROR=1, VERSION.

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
SHELL := /bin/bash

VERSION := 0.1.0-dev
B ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
CLANG ?= $(firstword $(foreach c,clang-14 clang,$(if $(shell command -v $c 2>/dev/null),$c)) clang)
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
JOBS ?= $(shell nproc)

# ---------------------------------------------------------------- flags (HOUSE_STYLE: Flags)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes \
	-Wmissing-prototypes -Wundef -Wvla -Wformat=2 -Wcast-qual -Wpointer-arith -Wwrite-strings \
	-Wimplicit-fallthrough -Wswitch-enum -Wnull-dereference
LANGUAGE := -std=c11 -D_GNU_SOURCE -fno-strict-aliasing -fno-common -ffp-contract=off
HARDEN := -fstack-protector-strong -fstack-clash-protection -fcf-protection=full \
	-D_FORTIFY_SOURCE=2 -fPIE
# Paths of this checkout do not get into the binary: the same commit gives the same bytes anywhere.
INCLUDE := -I. -ffile-prefix-map=$(CURDIR)=. -ffile-prefix-map=$(B)/=build/
BASE := $(LANGUAGE) $(WARNINGS) $(INCLUDE) -g -MMD -MP $(if $(WERROR),-Werror)
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

# The flavours of an object: the product; gcc with sanitizers; clang for its warnings; libFuzzer.
# banned.h comes first in two of them only: it includes much, and would hide a missing #include.
FIRST := -include common/banned.h
# Whose headers have members of banned names: these include banned.h themselves, behind them.
BANNED_LATER := agent/triggers/uv_mqtt.c
CC_obj := $(CC)
CFLAGS_obj := $(BASE) $(HARDEN) -O2 -ffunction-sections -fdata-sections
CC_san := gcc
CFLAGS_san := $(filter-out -Wnull-dereference,$(BASE)) -fPIE -O1 $(SANITIZE)
FIRST_san := $(FIRST)
CC_tsan := gcc
CFLAGS_tsan := $(filter-out -Wnull-dereference,$(BASE)) -fPIE -O1 -fsanitize=thread
CC_cov := gcc
CFLAGS_cov := $(filter-out -Wnull-dereference,$(BASE)) -fPIE -O0 --coverage
CC_clang := $(CLANG)
FIRST_clang := $(FIRST)
CFLAGS_clang := $(BASE) $(HARDEN) -O2
CC_fuzz := $(CLANG)
CFLAGS_fuzz := $(BASE) -fPIE -O1 $(SANITIZE) -fsanitize=fuzzer-no-link -Wno-unused-command-line-argument

# RELR packs half a megabyte of relative relocations into a few kilobytes (glibc 2.36 applies it).
LDFLAGS_static := -static-pie -Wl,-z,relro,-z,now,-z,noexecstack,-z,pack-relative-relocs \
	-Wl,--gc-sections
# pkg-config --static is wrong for libuv and yajl, and libarchive's reader needs only zstd and zlib.
LIBS := -l:libuv_a.a -l:libhttp_parser.a -lyajl_s -lseccomp -larchive -lzstd -lz -lsqlite3 -linih \
	-lpaho-mqtt3as -lssl -lcrypto -lm
LIBS_mixed := -Wl,-Bstatic $(filter-out -lm,$(LIBS)) -Wl,-Bdynamic -lm -lpthread -ldl

# ---------------------------------------------------------------- sources

SRC := $(filter-out agent/main.c,$(wildcard agent/*.c agent/*/*.c common/*.c common/*/*.c))
HDR := $(wildcard agent/*.h agent/*/*.h common/*.h common/*/*.h)
# What several tests link: helpers, and the simulated cluster of the routing tests.
TESTLIB_SRC := $(wildcard tests/lib/*.c tests/sim/route_sim*.c)
UNIT_SRC := $(wildcard tests/unit/test_*.c)
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
UI := $(sort $(wildcard agent/ui/*.html agent/ui/*.css agent/ui/*.js agent/ui/*.svg)) \
	$(wildcard agent/api/openapi.json)
ALL_C := $(SRC) $(wildcard agent/main.c) $(TESTLIB_SRC) $(UNIT_SRC) $(FUZZ_SRC) \
	$(wildcard tests/sim/*.c tests/wire/*.c tests/bench/*.c tests/system/*.c tests/vm/*.c)
ALL_H := $(HDR) $(wildcard tests/*/*.h)

GEN := $(B)/gen/version.c $(B)/gen/ui.c $(B)/gen/zoneinfo.c
objects = $(patsubst %.c,$(B)/$1/%.o,$(SRC)) $(B)/$1/gen/version.o $(B)/$1/gen/ui.o \
	$(B)/$1/gen/zoneinfo.o

# ---------------------------------------------------------------- the product

.PHONY: all
all: $(if $(wildcard agent/main.c),$(B)/agent,$(B)/libagent.a)

$(B)/agent: $(B)/agent.debug
	@objcopy --strip-all $< $@.tmp
	@objcopy --add-gnu-debuglink=$< $@.tmp
	@mv $@.tmp $@
	@echo "  AGENT   $@ ($$(stat -c %s $@) bytes)"

# The linker warns of dlopen, getaddrinfo, gethostbyname and getpwuid_r in static programs; main()
# and sys_* files see to it that none of these loads a second libc. Any other warning is shown, and
# is an error with WERROR=1.
$(B)/agent.debug: $(B)/obj/agent/main.o $(B)/libagent.a $(B)/obj/.flags packaging/link
	@echo "  LINK    $@"
	@packaging/link $(if $(WERROR),--werror) $(CC_obj) $(LDFLAGS_static) -o $@ $< $(B)/libagent.a $(LIBS)

$(B)/libagent.a: $(call objects,obj)
$(B)/san/libagent.a: $(call objects,san)
$(B)/tsan/libagent.a: $(call objects,tsan)
$(B)/cov/libagent.a: $(call objects,cov)
$(B)/fuzz/libagent.a: $(call objects,fuzz)
$(B)/san/libtest.a: $(patsubst %.c,$(B)/san/%.o,$(TESTLIB_SRC))
$(B)/tsan/libtest.a: $(patsubst %.c,$(B)/tsan/%.o,$(TESTLIB_SRC))
$(B)/cov/libtest.a: $(patsubst %.c,$(B)/cov/%.o,$(TESTLIB_SRC))
$(B)/libagent.a $(foreach f,san tsan cov fuzz,$(B)/$f/libagent.a) \
$(foreach f,san tsan cov,$(B)/$f/libtest.a):
	@echo "  AR      $@"
	@rm -f $@; ar rcs $@ $^

define flavour
# Objects are made again when their compiler or flags change.
$(B)/$1/.flags: FORCE
	@mkdir -p $$(@D); echo '$$(CC_$1) $$(CFLAGS_$1)' | cmp -s - $$@ || \
		echo '$$(CC_$1) $$(CFLAGS_$1)' > $$@
$(B)/$1/%.o: %.c $(B)/$1/.flags
	@mkdir -p $$(@D); echo "  CC $1  $$<"
	@$$(CC_$1) $$(CFLAGS_$1) $$(if $$(filter agent/% common/%,$$<),$$(if $$(filter $$(BANNED_LATER),$$<),,$$(FIRST_$1))) -c -o $$@ $$<
$(B)/$1/gen/%.o: $(B)/gen/%.c $(B)/$1/.flags
	@mkdir -p $$(@D); echo "  CC $1  $$<"
	@$$(CC_$1) $$(CFLAGS_$1) -c -o $$@ $$<
endef
$(foreach f,obj san tsan cov clang fuzz,$(eval $(call flavour,$f)))

$(B)/gen/version.c: FORCE
	@mkdir -p $(@D); new=$$(packaging/gen-version $(VERSION)); \
		echo "$$new" | cmp -s - $@ || echo "$$new" > $@

$(B)/gen/ui.c: packaging/gen-ui $(UI) $(B)/gen/.ui
	@mkdir -p $(@D); packaging/gen-ui $(UI) > $@

# The time zones of this machine's tzdata, for hosts that have none.
ZONEINFO ?= /usr/share/zoneinfo
$(B)/gen/gen-zoneinfo: packaging/gen-zoneinfo.c
	@mkdir -p $(@D); $(CC) -std=gnu11 -O1 -Wall -Wextra -o $@ $< -lzstd
$(B)/gen/zoneinfo.bin: $(B)/gen/gen-zoneinfo
	@$< $(ZONEINFO) $@
$(B)/gen/zoneinfo.c: $(B)/gen/zoneinfo.bin
	@printf '#include <stddef.h>\n#include <stdint.h>\n\n%s\n%s\n%s\n%s\n' \
		'extern const uint8_t zoneinfo_pack[];' 'extern const size_t zoneinfo_pack_len;' \
		'__asm__(".section .rodata\nzoneinfo_pack: .incbin \"$<\"\n.globl zoneinfo_pack\n.previous\n");' \
		"const size_t zoneinfo_pack_len = $$(stat -c %s $<);" > $@

# The list of the files, so that a removed one is noticed too.
$(B)/gen/.ui: FORCE
	@mkdir -p $(@D); echo '$(UI)' | cmp -s - $@ || echo '$(UI)' > $@

.PHONY: FORCE
FORCE:

# ---------------------------------------------------------------- unit tests

UNIT := $(patsubst tests/unit/%.c,$(B)/san/unit/%,$(UNIT_SRC))
UNIT_WANTED := $(if $(T),$(filter %/$(T),$(UNIT)),$(UNIT))

.PHONY: unit
unit: $(UNIT_WANTED)
	@$(if $(T),$(if $(UNIT_WANTED),:,echo "no unit test '$(T)'"; exit 1),:)
	@$(PYTHON) tests/lib/run_unit.py --results $(B)/results/unit.json --jobs $(JOBS) $^

$(B)/san/unit/%: $(B)/san/tests/unit/%.o $(B)/san/libtest.a $(B)/san/libagent.a
	@mkdir -p $(@D); echo "  LINK    $@"
	@$(CC_san) $(SANITIZE) -o $@ $^ -lcmocka $(LIBS_mixed)

# The same programs under ThreadSanitizer: for what runs beside the loop.
UNIT_TSAN := $(UNIT_WANTED:$(B)/san/%=$(B)/tsan/%)
.PHONY: unit-tsan
unit-tsan: $(UNIT_TSAN)
	@$(PYTHON) tests/lib/run_unit.py --results $(B)/results/tsan.json --jobs $(JOBS) $^

$(B)/tsan/unit/%: $(B)/tsan/tests/unit/%.o $(B)/tsan/libtest.a $(B)/tsan/libagent.a
	@mkdir -p $(@D); echo "  LINK    $@"
	@$(CC_tsan) -fsanitize=thread -o $@ $^ -lcmocka $(LIBS_mixed)

# Lines that the unit tests run: make coverage [FILE=common/str.c]
UNIT_COV := $(UNIT:$(B)/san/%=$(B)/cov/%)
.PHONY: coverage
coverage: $(UNIT_COV)
	@find $(B)/cov -name '*.gcda' -delete
	@$(PYTHON) tests/lib/run_unit.py --jobs $(JOBS) $^
	@$(PYTHON) tests/lib/coverage.py $(B)/cov $(if $(FILE),--uncovered $(FILE))

$(B)/cov/unit/%: $(B)/cov/tests/unit/%.o $(B)/cov/libtest.a $(B)/cov/libagent.a
	@mkdir -p $(@D); echo "  LINK    $@"
	@$(CC_cov) --coverage -o $@ $^ -lcmocka $(LIBS_mixed)

# ---------------------------------------------------------------- simulation

# Each tests/sim/sim_*.c is a program; the worlds that they play in are tests/lib/*_world.c.
SIM := $(patsubst tests/sim/%.c,$(B)/sim/%,$(wildcard tests/sim/sim_*.c))
SIM_WORLDS := $(patsubst %.c,$(B)/obj/%.o,$(wildcard tests/lib/*_world.c))
.PHONY: sim soak check-sim
sim: $(SIM)
	@for s in $^; do $$s $(SIM_ARGS) || exit 1; done

# As many seeds as asked: each prints only what fails. With MINUTES: real nodes and real faults.
SEEDS ?= 20
ifneq ($(MINUTES),)
soak: $(B)/agent
	AGENT=$(abspath $(B)/agent) $(PYTHON) tests/system/soak.py --minutes $(MINUTES) \
		$(if $(SEED),--seed $(SEED))
else
soak: $(B)/sim/sim_gossip
	@for seed in $$(seq 1 $(SEEDS)); do \
		$< --quick --plain --seed $$seed > $(B)/sim/soak.log || { cat $(B)/sim/soak.log; exit 1; }; \
	done; echo "ok   soak: $(SEEDS) seeds"
endif

# What both compilers make of it goes the same way, step for step.
check-sim: $(SIM) $(SIM:=.clang)
	@$(MAKE) --no-print-directory B=$(B) sim
	@for seed in 1 2; do \
		$(B)/sim/sim_gossip --quick --plain --seed $$seed > $(B)/sim/gcc.log && \
		$(B)/sim/sim_gossip.clang --quick --plain --seed $$seed | diff $(B)/sim/gcc.log - || exit 1; \
	done
	@$(B)/sim/sim_table --nodes 60 > $(B)/sim/gcc.log && \
		$(B)/sim/sim_table.clang --nodes 60 | diff $(B)/sim/gcc.log -
	@$(B)/sim/sim_replica --worlds 3 > $(B)/sim/gcc.log && \
		$(B)/sim/sim_replica.clang --worlds 3 | diff $(B)/sim/gcc.log -
	@echo "ok   sim: gcc and clang agree"

$(B)/sim/%.clang: $(B)/clang/tests/sim/%.o \
		$(patsubst %.c,$(B)/clang/%.o,$(wildcard tests/lib/*_world.c)) \
		$(patsubst %.c,$(B)/clang/%.o,$(SRC)) $(B)/clang/gen/version.o $(B)/clang/gen/ui.o
	@mkdir -p $(@D); echo "  LINK    $@"
	@packaging/link $(CLANG) $(LDFLAGS_static) -o $@ $^ $(LIBS)

$(B)/sim/%: $(B)/obj/tests/sim/%.o $(SIM_WORLDS) $(B)/libagent.a packaging/link
	@mkdir -p $(@D); echo "  LINK    $@"
	@packaging/link $(CC_obj) $(LDFLAGS_static) -o $@ $(filter %.o,$^) $(B)/libagent.a $(LIBS)

# ---------------------------------------------------------------- fuzzing

FUZZ := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(FUZZ_SRC))
FUZZ_RUNS ?= 20000
SECONDS ?= 60

.PHONY: fuzz-smoke fuzz-long fuzz fuzz-build
fuzz-build: $(FUZZ)
fuzz-smoke: $(FUZZ)
	@$(PYTHON) tests/lib/run_fuzz.py --results $(B)/results/fuzz.json --jobs $(JOBS) \
		--runs $(FUZZ_RUNS) --corpus tests/fuzz/corpus $^

# Every target for a minute.
fuzz-long: $(FUZZ)
	@$(PYTHON) tests/lib/run_fuzz.py --results $(B)/results/fuzz-long.json --jobs $(JOBS) \
		--seconds 60 --corpus tests/fuzz/corpus $^

fuzz: $(B)/fuzz/fuzz_$(TARGET)
	@test -n '$(TARGET)' || { echo "usage: make fuzz TARGET=name SECONDS=60"; exit 2; }
	@$(PYTHON) tests/lib/run_fuzz.py --seconds $(SECONDS) --corpus tests/fuzz/corpus \
		--new $(B)/fuzz/corpus $<

$(B)/fuzz/fuzz_%: $(B)/fuzz/tests/fuzz/fuzz_%.o $(B)/fuzz/libagent.a
	@mkdir -p $(@D); echo "  LINK    $@"
	@$(CC_fuzz) $(SANITIZE) -fsanitize=fuzzer -o $@ $^ $(LIBS_mixed)

# ---------------------------------------------------------------- system tests, bench, demo

# A launcher with a stand-in for the agent, an agent that turned hostile, and the programs that tests
# run inside sandboxes.
DRIVERS := $(B)/sandbox_driver $(B)/agent_driver
PROBES := $(patsubst tests/system/probes/%.c,$(B)/probes/%,$(wildcard tests/system/probes/*.c))

$(DRIVERS): $(B)/%: $(B)/obj/tests/system/%.o $(B)/libagent.a packaging/link
	@echo "  LINK    $@"
	@packaging/link $(if $(WERROR),--werror) $(CC_obj) $(LDFLAGS_static) -o $@ $< $(B)/libagent.a $(LIBS)

$(B)/probes/%: tests/system/probes/%.c tests/system/probes/probe.h
	@mkdir -p $(@D); echo "  PROBE   $@"
	@$(CC) -std=gnu11 -D_GNU_SOURCE -O1 -Wall -Wextra -static -o $@ $<

.PHONY: system bench bench-routing demo demo-cluster
system: $(B)/agent $(DRIVERS) $(PROBES)
	@mkdir -p $(B)/results
	AGENT=$(abspath $(B)/agent) $(PYTHON) -m pytest -q $(if $(K),-k '$(K)') $(PYTEST_ARGS) \
		--junitxml=$(B)/results/system.xml tests/system

# QUICK=1: fewer rounds and smaller files, to see that it works.
BENCH := $(B)/bench/start $(B)/bench/submit $(B)/bench/noop
bench: $(B)/agent $(BENCH)
	packaging/deps bench
	$(PYTHON) tests/bench/bench.py --agent $(abspath $(B)/agent) --bin $(abspath $(B)/bench) \
		--out $(B)/bench/bench.json $(if $(QUICK),--quick)

$(B)/bench/start: $(B)/obj/tests/bench/start.o $(B)/obj/tests/bench/naive.o
$(B)/bench/submit: $(B)/obj/tests/bench/submit.o
$(B)/bench/gossip: $(B)/obj/tests/bench/gossip.o
$(B)/bench/cron: $(B)/obj/tests/bench/cron.o
$(B)/bench/start $(B)/bench/submit $(B)/bench/gossip $(B)/bench/cron: $(B)/libagent.a packaging/link
	@mkdir -p $(@D); echo "  LINK    $@"
	@packaging/link $(CC_obj) $(LDFLAGS_static) -o $@ $(filter %.o,$^) $(B)/libagent.a $(LIBS)

# A real node beside a real mosquitto; then the next time of expressions.
.PHONY: bench-triggers
bench-triggers: $(B)/agent $(B)/bench/submit $(B)/bench/cron
	packaging/deps test
	$(PYTHON) tests/bench/triggers.py --agent $(abspath $(B)/agent) --bin $(abspath $(B)/bench) \
		--out $(B)/bench/triggers.json $(if $(QUICK),--quick)
	$(B)/bench/cron $(if $(QUICK),20000)

# DATA: a directory with the Azure Functions 2019 sample; without it its quantiles are drawn from.
DATA ?= $(firstword $(wildcard ../shared/data/azure2019/100))
ROUTING_OBJ := $(patsubst %.c,$(B)/obj/%.o,$(wildcard tests/sim/route_sim*.c tests/sim/bench_*.c))
bench-routing: $(B)/bench/routing
	$< $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA)) --svg $(B)/bench/routing.svg

$(B)/bench/routing: $(ROUTING_OBJ) $(B)/libagent.a packaging/link
	@mkdir -p $(@D); echo "  LINK    $@"
	@packaging/link $(CC_obj) $(LDFLAGS_static) -o $@ $(filter %.o,$^) $(B)/libagent.a $(LIBS)

$(B)/bench/noop: tests/bench/noop.S
	@mkdir -p $(@D); echo "  LINK    $@"
	@gcc -static -nostdlib -Wl,--build-id=none -o $@ $<

# Membership beside memberlist, which takes part where Debian's Go library can be had.
.PHONY: bench-cluster check-interop
bench-cluster: $(B)/bench/gossip
	packaging/deps interop && $(MAKE) --no-print-directory B=$(B) $(B)/bench/memberlist || true
	$(PYTHON) tests/bench/cluster.py --bin $(B)/bench --out $(B)/bench/cluster.json \
		$(if $(QUICK),--quick)

# Offline: the library is in Debian's GOPATH.
$(B)/bench/memberlist: tests/bench/memberlist/main.go
	@mkdir -p $(@D) $(B)/go/src/memberlist_peer; echo "  GO      $@"
	@cp $< $(B)/go/src/memberlist_peer/
	@GO111MODULE=off GOCACHE=$(abspath $(B))/go/cache GOPATH=$(abspath $(B))/go:/usr/share/gocode \
		go build -o $@ memberlist_peer

check-interop: $(B)/agent
	packaging/deps interop
	$(MAKE) --no-print-directory B=$(B) $(B)/bench/memberlist
	AGENT=$(abspath $(B)/agent) MEMBERLIST=$(abspath $(B)/bench/memberlist) \
		$(PYTHON) -m pytest -q $(PYTEST_ARGS) tests/wire/memberlist_mixed.py

demo:
	packaging/deps demo
	$(MAKE) B=$(B) all
	AGENT=$(abspath $(B)/agent) tests/demo/demo.sh

# Real agents on loopback whose processors differ by mask: how jobs find the right ones.
.PHONY: demo-routing
demo-routing:
	packaging/deps bench
	$(MAKE) B=$(B) all $(B)/demo/crypt
	$(PYTHON) tests/demo/routing.py --agent $(abspath $(B)/agent) --crypt $(B)/demo/crypt \
		--svg $(B)/demo/routing.svg $(DEMO_ARGS)

$(B)/demo/crypt: tests/demo/crypt.c packaging/link
	@mkdir -p $(@D); echo "  LINK    $@"
	@packaging/link gcc -O2 -static -o $@ $< -lcrypto

# Five real nodes as a closed cluster.
demo-cluster:
	packaging/deps demo
	$(MAKE) B=$(B) all
	AGENT=$(abspath $(B)/agent) tests/demo/cluster.sh

# ---------------------------------------------------------------- checks

CHECK := $(PYTHON) tests/check
CLANG_OBJ := $(patsubst %.c,$(B)/clang/%.o,$(SRC) $(wildcard agent/main.c))
TIDY := $(patsubst %.c,$(B)/tidy/%.ok,$(SRC) $(wildcard agent/main.c))
CPPCHECK := cppcheck --quiet --error-exitcode=1 --std=c11 --inline-suppr -j $(JOBS) \
	--enable=warning,performance,portability --suppressions-list=tests/check/cppcheck.txt \
	--template='{file}:{line}: {severity}: {message} [{id}]' -I. -D_GNU_SOURCE -D__linux__ -D__x86_64__ \
	--library=tests/check/cppcheck.cfg
SCRIPTS = $(shell git ls-files -co --exclude-standard 2>/dev/null | while read -r f; do \
	test -f "$$f" && head -c 32 "$$f" | head -n 1 | grep -aq '^\#!/bin/\(ba\)\?sh' && echo "$$f"; done)
STATIC := layers headers symbols style format clang tidy cppcheck shell binary example traps selftest

.PHONY: static check-prepare $(STATIC:%=check-%) check-package check-reproducible check-fresh
static: $(STATIC:%=check-%)

# Everything that the checks run or look at; then they can run side by side.
check-prepare: all $(if $(wildcard agent/main.c),$(B)/agent.clang) $(UNIT) $(FUZZ)

check-layers:
	@$(CHECK)/layers.py
check-headers:
	@$(CHECK)/headers.py --compiler gcc --compiler $(CLANG) --jobs $(JOBS)
check-symbols: $(call objects,obj) $(patsubst %.c,$(B)/obj/%.o,$(wildcard agent/main.c))
	@$(CHECK)/symbols.py --objects $(B)/obj
check-style:
	@$(CHECK)/style.py
check-format:
	@bad=; for f in $(ALL_C) $(ALL_H); do \
		clang-format-14 $$f | cmp -s - $$f || { echo "$$f: layout; run make format"; bad=1; }; \
	done; test -z "$$bad" && echo "ok   format"
check-clang: $(if $(wildcard agent/main.c),$(B)/agent.clang)
	@$< version > /dev/null && echo "ok   clang: builds, links and starts"
check-tidy: $(TIDY)
	@echo "ok   tidy: $(words $^) files"
check-cppcheck:
	@mkdir -p $(B)/cppcheck
	@$(CPPCHECK) --cppcheck-build-dir=$(B)/cppcheck agent common && echo "ok   cppcheck"
check-shell:
	@shellcheck -x -e SC1091,SC2016 $(SCRIPTS) && echo "ok   shellcheck: $(words $(SCRIPTS)) scripts"
check-binary: all
	@$(if $(wildcard agent/main.c),$(CHECK)/binary.py --debug $(B)/agent.debug $(B)/agent,echo "no agent/main.c")
check-traps: all
	@tests/check/traps.sh $(B)/agent
check-example: all
	@$(B)/agent config example | diff -u agent.conf.example - || \
		{ echo "agent.conf.example is not what the program says: run make example"; exit 1; }
	@$(B)/agent config check agent.conf.example && echo "ok   example"
check-package: $(B)/agent
	@MAKE='$(MAKE)' tests/check/package.sh $(B) $(VERSION)
check-reproducible:
	@tests/check/reproducible.sh
check-fresh:
	@tests/check/fresh.sh
check-selftest:
	@$(CHECK)/selftest.py

$(B)/agent.clang: $(CLANG_OBJ) $(B)/clang/gen/version.o $(B)/clang/gen/ui.o \
	$(B)/clang/gen/zoneinfo.o
	@echo "  LINK    $@"
	@packaging/link --werror $(CC_clang) $(LDFLAGS_static) -o $@ $^ $(LIBS)

# One file at a time, again only when the file or a header of it changed.
$(B)/tidy/%.ok: %.c $(B)/clang/%.o .clang-tidy tests/check/model.h
	@mkdir -p $(@D); echo "  TIDY    $<"
	@clang-tidy-14 --quiet $< -- $(LANGUAGE) -I. \
		$(if $(filter common/err.c,$<),,-include tests/check/model.h) 2>$@.log || { cat $@.log; exit 1; }
	@touch $@

.PHONY: check check-all check-vm
check:
	packaging/deps test
	packaging/deps vm || echo "the virtual machine lab will be skipped"
	@$(CHECK)/all.py --make '$(MAKE)' --build $(B) --jobs $(JOBS)

check-all:
	packaging/deps all
	@$(CHECK)/all.py --make '$(MAKE)' --build $(B) --jobs $(JOBS) --long

check-vm: $(B)/agent $(PROBES)
	@$(PYTHON) tests/vm/lab.py --agent $(B)/agent --build $(B)/vm --jobs $(JOBS) \
		--results $(B)/results/vm.json $(if $(GUEST),--only '$(GUEST)')

# ---------------------------------------------------------------- install, format

PREFIX ?= /usr/local

SYSCONFDIR ?= /etc
SHELLS := bash zsh fish
DOCS := $(B)/doc/agent.8 $(B)/doc/agent.conf.5 $(SHELLS:%=$(B)/doc/agent.%)

.PHONY: install deb format
install: $(B)/agent $(DOCS)
	install -D -m 755 $(B)/agent $(DESTDIR)$(PREFIX)/bin/agent
	install -D -m 644 $(B)/doc/agent.8 $(DESTDIR)$(PREFIX)/share/man/man8/agent.8
	install -D -m 644 $(B)/doc/agent.conf.5 $(DESTDIR)$(PREFIX)/share/man/man5/agent.conf.5
	install -D -m 644 $(B)/doc/agent.bash \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/agent
	install -D -m 644 $(B)/doc/agent.zsh $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_agent
	install -D -m 644 $(B)/doc/agent.fish \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/agent.fish
	@mkdir -p $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's,@PREFIX@,$(PREFIX),' packaging/agent.service.in \
		> $(DESTDIR)$(PREFIX)/lib/systemd/system/agent.service
	@# An edited configuration is never overwritten.
	test -e $(DESTDIR)$(SYSCONFDIR)/agent/agent.conf || install -D -m 644 agent.conf.example \
		$(DESTDIR)$(SYSCONFDIR)/agent/agent.conf

# The binary prints its own manual: the same text as --help and agent.conf.example.
$(B)/doc/agent.8: $(B)/agent
	@mkdir -p $(@D); $(B)/agent help --man > $@
$(B)/doc/agent.conf.5: $(B)/agent
	@mkdir -p $(@D); $(B)/agent help --man-conf > $@
$(SHELLS:%=$(B)/doc/agent.%): $(B)/doc/agent.%: $(B)/agent
	@mkdir -p $(@D); $(B)/agent completion $* > $@

# The example is tracked, for readers; check-example sees to it that it is the program's own.
.PHONY: example
example: $(B)/agent
	$(B)/agent config example > agent.conf.example

deb: $(B)/agent
	@MAKE='$(MAKE)' packaging/make-deb $(B) $(VERSION)

format:
	clang-format-14 -i $(ALL_C) $(ALL_H)

# ---------------------------------------------------------------- housekeeping

.PHONY: clean
clean:
	rm -rf $(B)

# Test programs' objects are kept between runs.
.SECONDARY:

-include $(shell find $(B) -type f -name '*.d' 2>/dev/null)
