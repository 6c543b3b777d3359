# flowd-lua: `make help` lists what there is to make.

CC      ?= cc
CLANG   ?= clang
BPFTOOL ?= $(firstword $(wildcard /usr/sbin/bpftool) bpftool)
LUAJIT  ?= luajit
PKG_CONFIG ?= pkg-config

VERSION := 0.1.0
PREFIX  ?= /usr
DESTDIR ?=
UNIT_DIR ?= /lib/systemd/system
SYSUSERS_DIR ?= /usr/lib/sysusers.d
# EBPF=0 builds without libbpf, libelf, clang and bpftool: the marker is left out.
EBPF    ?= 1
# SANITIZE=address,undefined instruments the daemon (see `make asan`).
SANITIZE ?=
# STATIC=1 links one static binary (see `make static`).
STATIC  ?= 0

BUILD ?= build$(if $(filter 0,$(EBPF)),-noebpf)$(if $(SANITIZE),-san)$(if $(filter 1,$(STATIC)),-static)
BIN   ?= $(if $(filter build,$(BUILD)),bin,$(BUILD)/bin)
GEN   := $(BUILD)/gen

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:

# -- what is compiled ------------------------------------------------------------

BPF_SRC := $(wildcard bpf/*.bpf.c)
BPF_OBJECTS := $(patsubst bpf/%.bpf.c,%,$(BPF_SRC))
# Files that need libbpf, and (NAME_none.c) those that stand in for them.
EBPF_SRC := $(wildcard src/marker*.c src/programs*.c)
SRC := $(filter-out $(EBPF_SRC),$(wildcard src/*.c))
ifeq ($(EBPF),1)
SRC += $(filter-out %_none.c,$(EBPF_SRC))
SKELETONS := $(patsubst bpf/%.bpf.c,$(GEN)/%.skel.h,$(BPF_SRC))
else
SRC += $(filter %_none.c,$(EBPF_SRC))
SKELETONS :=
endif
OBJ := $(patsubst src/%.c,$(BUILD)/%.o,$(SRC)) $(BUILD)/flowd_api.o $(BUILD)/embedded.o \
	$(if $(filter 1,$(EBPF)),$(BUILD)/programs_list.o)

# Headers whose structs and FFI_EXPORT functions Lua sees; shared structs come first.
ABI_HEADERS := $(wildcard src/flow_abi.h src/flow_event.h)
FFI_HEADERS := $(ABI_HEADERS) $(filter-out $(ABI_HEADERS) src/ffi_export.h,$(sort $(shell grep -l '^FFI_EXPORT' src/*.h)))

LUA_SRC := $(sort $(wildcard lua/*/*.lua lua/*/*/*.lua))

LIBS := libevent_core libevent_extra libevent_openssl libssl libcrypto luajit jansson
ifeq ($(EBPF),1)
LIBS += libbpf
endif
PKG_FLAGS := $(if $(filter 1,$(STATIC)),--static)

CPPFLAGS += -D_GNU_SOURCE -DFLOWD_VERSION='"$(VERSION)"' -Isrc -I$(GEN) $(shell $(PKG_CONFIG) --cflags $(LIBS) 2>/dev/null)
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings -Wvla
CFLAGS   ?= -O2 -g
ALL_CFLAGS = -std=gnu11 $(WARNINGS) -fexceptions -fno-strict-aliasing -fstack-protector-strong $(CFLAGS)
ifeq ($(STATIC),1)
LINKED := $(LIBS)
# libedit's own list of libraries for a static binary names neither all nor existing ones.
LDLIBS += -ledit -ltinfo -lbsd -lmd
else
# The others are loaded when they are first used, by the names that the linker would have noted.
LINKED := $(filter-out libevent_openssl libssl libcrypto,$(LIBS))
soname = $(shell objdump -p $$($(CC) -print-file-name=lib$(1).so) 2>/dev/null | awk '$$1 == "SONAME" { print $$2 }')
LATER := -DFLOWD_TLS_LIBRARY='"$(call soname,event_openssl)"' -DFLOWD_EDIT_LIBRARY='"$(call soname,edit)"'
CPPFLAGS += $(LATER)
endif
LDLIBS   += $(shell $(PKG_CONFIG) $(PKG_FLAGS) --libs $(LINKED) 2>/dev/null) -lm -ldl -lpthread
# Lua modules written in C (the tests' own) find LuaJIT's symbols in the binary.
ALL_LDFLAGS = -Wl,-E -Wl,-z,relro,-z,now $(LDFLAGS)
ifeq ($(STATIC),1)
ALL_LDFLAGS += -static
# The name service switch loads libraries: not from a static binary.
CPPFLAGS += -DFLOWD_STATIC
endif
ifneq ($(SANITIZE),)
ALL_CFLAGS += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all
ALL_LDFLAGS += -fsanitize=$(SANITIZE)
endif

# -- targets ---------------------------------------------------------------------

.PHONY: help deps build run demo test fuzz soak test-kernels lint asan bench man conf static install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what building needs (Debian packages, as root)
	@scripts/install-deps build

build: deps ## compile bin/flowd-lua
	@$(MAKE) --no-print-directory $(BIN)/flowd-lua

run: ## install what it needs, build, start the daemon in the foreground with conf/dev.lua
	@scripts/install-deps run
	@$(MAKE) --no-print-directory $(BIN)/flowd-lua
	@exec $(BIN)/flowd-lua --conf conf/dev.lua run

demo: ## mark and report a real transfer between two network namespaces
	@scripts/install-deps test
	@$(MAKE) --no-print-directory $(BIN)/flowd-lua
	@exec $(BIN)/flowd-lua lua scripts/demo/main.lua

test: ## install what testing needs, build, lint, run every test
	@scripts/install-deps all
	@$(MAKE) --no-print-directory $(BIN)/flowd-lua
	@FLOWD_BIN=$(BIN)/flowd-lua scripts/test

# The part of `make test` that can go on for long: each spec takes what it knows of these.
FUZZ_ROUNDS ?= 10000000
FUZZ_SECONDS ?= 60
fuzz: ## random input: 10^7 packets, a minute of damaged lines and so on (FUZZ_ROUNDS, FUZZ_SECONDS, FUZZ_SEED)
	@scripts/install-deps test
	@$(MAKE) --no-print-directory $(BIN)/flowd-lua
	@FLOWD_BIN=$(BIN)/flowd-lua FUZZ_ROUNDS=$(FUZZ_ROUNDS) FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/test fuzz

soak: ## kill and restart the daemon 1,000 times under traffic, and at every system call; reload it 1,000 times
	@scripts/install-deps all
	@$(MAKE) --no-print-directory $(BIN)/flowd-lua
	@FLOWD_BIN=$(BIN)/flowd-lua FLOWD_RESTARTS=1000 $(BIN)/flowd-lua lua spec/run.lua spec/system/restart_spec.lua
	@FLOWD_BIN=$(BIN)/flowd-lua FLOWD_RELOADS=1000 $(BIN)/flowd-lua lua spec/run.lua spec/system/reload_spec.lua

test-kernels: ## boot Debian's kernels 5.10, 6.1 and 6.12 in qemu and try the static binary there
	@scripts/install-deps kernels
	@$(MAKE) --no-print-directory $(BIN)/flowd-lua
	@$(MAKE) --no-print-directory STATIC=1 build-static/bin/flowd-lua
	@scripts/kernels/run

lint: ## luacheck, clang-format, cppcheck, shellcheck
	@scripts/install-deps all
	@scripts/lint

asan: ## every test again with AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/install-deps all
	@$(MAKE) --no-print-directory SANITIZE=address,undefined CFLAGS='-O1 -g' build-san/bin/flowd-lua
	@FLOWD_BIN=build-san/bin/flowd-lua ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:quarantine_size_mb=8 UBSAN_OPTIONS=print_stacktrace=1 \
		scripts/test unit core bpf system fuzz

bench: ## what it costs, each figure next to a baseline of the same run
	@scripts/install-deps bench
	@$(MAKE) --no-print-directory $(BIN)/flowd-lua
	@FLOWD_BIN=$(BIN)/flowd-lua scripts/bench/run

static: ## one static binary, build-static/bin/flowd-lua, nothing needed beside it
	@scripts/install-deps build
	@$(MAKE) --no-print-directory STATIC=1 build-static/bin/flowd-lua

# The day of the last commit: the same source makes the same pages.
MAN_DATE ?= $(or $(shell git log -1 --format=%cs 2>/dev/null),$(shell date +%F))
man: $(BIN)/flowd-lua ## write the manual pages to build/man
	@mkdir -p $(BUILD)/man
	@$(BIN)/flowd-lua lua scripts/build/man.lua $(BUILD)/man $(MAN_DATE)
	@echo "  MAN     $(BUILD)/man"

conf: $(BIN)/flowd-lua ## write conf/flowd.lua and conf/annotations/configuration.lua from the schemas
	@$(BIN)/flowd-lua conf --template > $(BUILD)/flowd.lua && mv $(BUILD)/flowd.lua conf/flowd.lua
	@$(BIN)/flowd-lua lua scripts/build/annotations.lua conf/annotations/configuration.lua

install: build man ## copy into $(DESTDIR)$(PREFIX)
	install -D -m 0755 $(BIN)/flowd-lua $(DESTDIR)$(PREFIX)/sbin/flowd-lua
	test -e $(DESTDIR)/etc/flowd-lua/conf.lua || install -D -m 0644 conf/flowd.lua $(DESTDIR)/etc/flowd-lua/conf.lua
	install -D -m 0644 $(BUILD)/man/flowd-lua.8 $(DESTDIR)$(PREFIX)/share/man/man8/flowd-lua.8
	install -D -m 0644 $(BUILD)/man/flowd-lua.conf.5 $(DESTDIR)$(PREFIX)/share/man/man5/flowd-lua.conf.5
	install -D -m 0644 $(BUILD)/man/flowd-lua-console.7 $(DESTDIR)$(PREFIX)/share/man/man7/flowd-lua-console.7
	install -D -m 0644 $(BUILD)/man/flowd-lua-rules.7 $(DESTDIR)$(PREFIX)/share/man/man7/flowd-lua-rules.7
	install -D -m 0644 $(BUILD)/man/flowd-lua-plugins.7 $(DESTDIR)$(PREFIX)/share/man/man7/flowd-lua-plugins.7
	install -d $(DESTDIR)$(PREFIX)/share/flowd-lua
	cd conf && find cookbook annotations -type f -exec install -D -m 0644 {} $(abspath $(DESTDIR)$(PREFIX))/share/flowd-lua/{} \;
	install -d $(DESTDIR)$(UNIT_DIR)
	sed 's|/usr/sbin/|$(PREFIX)/sbin/|' packaging/systemd/flowd-lua.service > $(DESTDIR)$(UNIT_DIR)/flowd-lua.service
	chmod 0644 $(DESTDIR)$(UNIT_DIR)/flowd-lua.service
	install -D -m 0644 packaging/systemd/flowd-lua.sysusers $(DESTDIR)$(SYSUSERS_DIR)/flowd-lua.conf

clean: ## remove everything that was built
	rm -rf build build-* bin

# -- rules -----------------------------------------------------------------------

$(BIN)/flowd-lua: $(OBJ)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LDLIBS)

# Compiler flags that differ make other objects: remember them.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D) $(GEN)
	@echo '$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS)' | cmp -s - $@ || echo '$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS)' > $@

.PHONY: FORCE
FORCE:

$(BUILD)/%.o: src/%.c $(BUILD)/flags | $(GEN)/flowd_api.h $(SKELETONS)
	@echo "  CC      $<"
	@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/%.o: $(GEN)/%.c $(BUILD)/flags
	@echo "  CC      $<"
	@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(GEN)/flowd_api.h: $(FFI_HEADERS) scripts/build/ffi.lua Makefile
	@mkdir -p $(@D)
	@echo "  GEN     $@"
	@$(LUAJIT) scripts/build/ffi.lua "$(CC)" $(GEN) $(FFI_HEADERS)

$(GEN)/flowd_api.c $(GEN)/cdef.lua: $(GEN)/flowd_api.h ;

lua_module = $(subst /,.,$(patsubst lua/%.lua,%,$(1)))
$(GEN)/embedded.c: $(LUA_SRC) $(GEN)/cdef.lua scripts/build/embed.lua Makefile
	@echo "  GEN     $@"
	@$(LUAJIT) scripts/build/embed.lua $@ flowd.cdef=$(GEN)/cdef.lua $(foreach f,$(LUA_SRC),$(call lua_module,$(f))=$(f))

ifeq ($(EBPF),1)
# Debian's clang looks for asm/ headers of its own target, which BPF has not.
BPF_INCLUDES := -I/usr/include/$(shell $(CC) -print-multiarch 2>/dev/null)
# Does the processor read memory in another order than the program says?
BPF_ORDER := -DANY_ORDER=$(if $(filter x86_64-% i%86-%,$(shell $(CC) -dumpmachine 2>/dev/null)),0,1)
$(BUILD)/bpf/%.bpf.o: bpf/%.bpf.c $(wildcard bpf/*.h) src/flow_abi.h src/marker_flows.h Makefile
	@mkdir -p $(@D)
	@echo "  BPF     $<"
	@$(CLANG) -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror -Isrc -Ibpf $(BPF_INCLUDES) $(BPF_ORDER) -c -o $@ $<
	@llvm-strip -g $@

$(GEN)/%.skel.h: $(BUILD)/bpf/%.bpf.o
	@mkdir -p $(@D)
	@echo "  SKEL    $@"
	@$(BPFTOOL) gen skeleton $< name $*_bpf > $@

$(GEN)/programs_list.c: $(SKELETONS) Makefile
	@echo "  GEN     $@"
	@{ echo '#include "programs_list.h"'; \
	   printf '#include "%s.skel.h"\n' $(BPF_OBJECTS); \
	   echo 'const struct programs_object programs_list[] = {'; \
	   printf '\t{"%s", %s_bpf__elf_bytes},\n' $(foreach o,$(BPF_OBJECTS),$(o) $(o)); \
	   printf '\t{NULL, NULL},\n};\n'; } > $@
endif

.PRECIOUS: $(BUILD)/bpf/%.bpf.o $(GEN)/%.skel.h $(GEN)/%.c
-include $(wildcard $(BUILD)/*.d)
