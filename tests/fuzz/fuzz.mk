# SPDX-License-Identifier: Apache-2.0
#
# Fuzzing with clang's libFuzzer (Debian: clang, libclang-rt-14-dev), from the top folder:
#   make fuzz            builds the targets with sanitizers and runs each for FUZZ_SECONDS; fails when one finds something
#   make fuzz-merge      makes the corpora of the tree anew from their seeds and what was found
#   make fuzz-coverage   lines of the parsers that the corpora of the tree reach
# Variables: FUZZ_TARGETS=frame ledger ..., FUZZ_SECONDS=60, FUZZ_RUNS=-1 (executions; -1: no limit), FUZZ_CC, BUILD.

.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := run
MAKEFLAGS += --no-builtin-rules

BUILD ?= build/fuzz
FUZZ_CC ?= clang
ifeq ($(shell command -v $(FUZZ_CC)),)
$(error $(FUZZ_CC) is not there: as root apt-get install clang libclang-rt-14-dev llvm-14, or set FUZZ_CC)
endif
FUZZ_SECONDS ?= 60
FUZZ_RUNS ?= -1
FUZZ_ALL := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_TARGETS ?= $(FUZZ_ALL)
COVERAGE := $(BUILD)/coverage

# The parsers and what they stand on: no MPI, no CUDA, no OpenMP.
SRC := $(filter-out src/core/range_cuda%,$(wildcard src/core/*.c)) $(wildcard src/config/*.c src/codec/*.c) \
       $(addprefix src/data/,checksums.c cohort.c csv.c shard.c volume.c) \
       $(addprefix src/privacy/,ledger.c update.c) src/io/safetensors.c src/io/state.c \
       $(addprefix src/nn/,conv_choice.c conv_cudnn_choice.c) \
       $(addprefix data_split/,nifti.c nifti_header.c nifti_write.c partition.c partition_draw.c)

# In order of target: the files whose lines make fuzz-coverage counts.
PARSERS := src/config/options.c src/config/option_value.c src/config/config.c data_split/nifti_header.c data_split/nifti.c \
           src/data/csv.c data_split/partition.c src/codec/frame.c src/codec/index.c src/codec/bits.h src/data/cohort.c \
           src/data/checksums.c src/privacy/ledger.c src/io/safetensors.c src/io/state.c src/nn/conv_choice.c src/nn/conv_cudnn_choice.c

comma := ,
PKG := pkg-config
isystem = $(patsubst -I%,-isystem%,$(1))
HDF5_CFLAGS ?= $(call isystem,$(shell $(PKG) --cflags hdf5-serial))
HDF5_LIBS ?= $(shell $(PKG) --libs-only-L hdf5-serial) -lhdf5_serial
NIFTI_CFLAGS ?= -isystem/usr/include/nifti
LIBS := $(HDF5_LIBS) $(shell $(PKG) --libs inih libsodium) -lz -lm
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all
CFLAGS_ALL = -std=c11 -O2 -g -march=native -Wall -Wextra -Wno-unknown-pragmas -Isrc -Idata_split -Itests/fuzz -D_GNU_SOURCE \
             $(HDF5_CFLAGS) $(NIFTI_CFLAGS) -DFB_VERSION='"fuzz"' -DFB_REVISION='"fuzz"' -DFB_FLAGS='""' $(CFLAGS)

.PHONY: run build merge coverage

run: build
	@FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_RUNS=$(FUZZ_RUNS) tests/fuzz/run.sh $(BUILD) $(FUZZ_TARGETS)

build: $(FUZZ_TARGETS:%=$(BUILD)/fuzz_%)

# Seeds stay; of what was found, the smallest inputs that reach all of it.
merge: build
	@for t in $(FUZZ_TARGETS); do \
	    mkdir -p $(BUILD)/corpus/$$t && find tests/fuzz/corpus/$$t -type f ! -name 'seed-*' -exec mv -t $(BUILD)/corpus/$$t {} + && \
	    $(BUILD)/fuzz_$$t -merge=1 -max_len=4096 tests/fuzz/corpus/$$t $(BUILD)/corpus/$$t > $(BUILD)/merge-$$t.log 2>&1 || exit 1; \
	    echo "$$t: $$(ls tests/fuzz/corpus/$$t | wc -l) inputs"; \
	done

# Without libFuzzer: replay.c and the corpora of the tree, nothing else.
coverage: $(FUZZ_TARGETS:%=$(COVERAGE)/fuzz_%)
	@for t in $(FUZZ_TARGETS); do \
	    LLVM_PROFILE_FILE=$(COVERAGE)/$$t.profraw $(COVERAGE)/fuzz_$$t tests/fuzz/corpus/$$t > /dev/null || exit 1; \
	done
	@llvm-profdata-14 merge -o $(COVERAGE)/all.profdata $(FUZZ_TARGETS:%=$(COVERAGE)/%.profraw)
	@llvm-cov-14 report $(COVERAGE)/fuzz_$(firstword $(FUZZ_TARGETS)) -instr-profile=$(COVERAGE)/all.profdata \
	    $(patsubst %,-object $(COVERAGE)/fuzz_%,$(wordlist 2,99,$(FUZZ_TARGETS))) $(abspath $(PARSERS))

# clang's own pattern of a build: with libFuzzer and sanitizers, or with counters.
$(BUILD)/%.o: flags = -fsanitize=fuzzer-no-link -fsanitize-coverage-ignorelist=tests/fuzz/no_feedback.txt $(SANITIZE)
$(COVERAGE)/%.o: flags = -fprofile-instr-generate -fcoverage-mapping
define compile
@mkdir -p $(@D)
@echo '  CC $<'
@$(FUZZ_CC) $(CFLAGS_ALL) $(flags) -MMD -MP -c $< -o $@
endef

$(COVERAGE)/%.o: %.c
	$(compile)

$(BUILD)/%.o: %.c
	$(compile)

$(BUILD)/libfuzzed.a $(COVERAGE)/libfuzzed.a: %/libfuzzed.a: $(addprefix %/,$(SRC:.c=.o))
	@rm -f $@ && ar rcs $@ $^

$(FUZZ_ALL:%=$(COVERAGE)/fuzz_%): $(COVERAGE)/%: $(COVERAGE)/tests/fuzz/%.o $(COVERAGE)/tests/fuzz/replay.o $(COVERAGE)/libfuzzed.a
	@$(FUZZ_CC) -fprofile-instr-generate -fcoverage-mapping $^ $(LIBS) -o $@

$(FUZZ_ALL:%=$(BUILD)/fuzz_%): $(BUILD)/%: $(BUILD)/tests/fuzz/%.o $(BUILD)/tests/fuzz/exact.o $(BUILD)/libfuzzed.a
	@$(FUZZ_CC) -fsanitize=fuzzer $(SANITIZE) $(addprefix -Wl$(comma)--wrap=fb_mem_,alloc alloc_raw resize) $^ $(LIBS) -o $@

.SECONDARY:
-include $(wildcard $(BUILD)/*/*/*.d $(COVERAGE)/*/*/*.d)
