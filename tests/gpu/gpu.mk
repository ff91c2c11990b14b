# SPDX-License-Identifier: Apache-2.0
#
# What runs on a real GPU, built with as little as a machine with one may have: a C and C++ compiler, make, and CUDA's
# nvcc and runtime. No MPI, HDF5, oneDNN, libsodium; cmocka and Random123 are stood in for (tests/gpu/standin).
#   make gpu-check   make gpu-bench   from the top folder (tests/gpu/README.md)
# Variables: BUILD, CC, CXX, NVCC or CUDA_HOME, NVCC_GENCODE, MARCH; EMULATED=1 builds for the emulated GPU of the tests.
# The programs need no library but the C library's, so that they can be built elsewhere and carried to the GPU: make
# gpu-carry does, and adds the tests that need all of FedBraTS, with their libraries, in build/carry.

.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules

EMULATED ?=
BUILD ?= build/gpu$(if $(EMULATED),-emulated)
MARCH ?= x86-64-v3
CUDA_HOME ?= $(or $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc 2>/dev/null))),/usr/local/cuda)
NVCC ?= $(CUDA_HOME)/bin/nvcc
NVCC_GENCODE ?= -gencode=arch=compute_90,code=sm_90 -gencode=arch=compute_80,code=compute_80
CUDA_INCLUDE := $(patsubst %/cuda_runtime.h,%,$(firstword $(wildcard $(CUDA_HOME)/include/cuda_runtime.h \
                $(CUDA_HOME)/targets/x86_64-linux/include/cuda_runtime.h)))
ifeq ($(EMULATED)$(wildcard $(NVCC)),)
$(error $(NVCC) is not there: set CUDA_HOME or NVCC, or EMULATED=1 for the emulated GPU)
endif

# The operations (reference and GPU), the network, and what they stand on.
SRC := $(addprefix src/core/,mem.c status.c timer.c rng.c) $(addprefix src/data/,augment.c volume.c) \
       $(addprefix src/nn/,op_ref.c op_host.c pointwise.c loss.c optim.c params.c segresnet.c segresnet_build.c) \
       $(wildcard src/nn/*_cuda.c) src/core/range_cuda$(if $(EMULATED)$(wildcard $(CUDA_INCLUDE)/nvtx3/nvToolsExt.h),,_none).c
KERNELS := $(wildcard src/nn/*.cu)
LIB := $(BUILD)/libgpu.a
LIB_OBJ := $(SRC:%.c=$(BUILD)/%.o) $(KERNELS:%=$(BUILD)/%.o) \
           $(if $(EMULATED),$(patsubst %.cc,$(BUILD)/%.o,$(wildcard tests/emulator/*.cc)))
BENCH_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/gpu/bench_*.c)) $(BUILD)/tests/gpu/bench_device.cu.o
# ONLY_EMULATED: tests that call the emulated GPU, not only where it is there. CARRIED are those that need all of FedBraTS and its libraries: make
# gpu-carry builds them, and the rest, elsewhere.
ONLY_EMULATED := $(shell grep -L weak $$(grep -l 'fb_emulator_\|"emulator/' tests/test_*_cuda.c))
CARRIED_SRC := $(shell grep -lE '"(privacy|fed|io|comm)/|"(golden_check|hospital)\.h"' tests/test_*_cuda.c)
TEST_SRC := $(filter-out $(ONLY_EMULATED) $(CARRIED_SRC),$(wildcard tests/test_*_cuda.c))
TESTS := $(patsubst tests/%.c,$(BUILD)/%,$(TEST_SRC))
CARRIED := $(patsubst tests/%.c,%,$(filter-out $(ONLY_EMULATED),$(CARRIED_SRC)) $(wildcard tests/test_conv_cudnn_gpu.c))
PROGRAMS := $(BUILD)/bench_gpu $(BUILD)/compare_torch
OBJ := $(LIB_OBJ) $(BENCH_OBJ) $(BUILD)/tests/gpu/compare_torch.o $(TEST_SRC:%.c=$(BUILD)/%.o)

.PHONY: all programs check bench carried
all: $(PROGRAMS) $(TESTS)
programs: $(PROGRAMS)

# A test that does not build is one that failed; the others run.
in_parallel = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))
check:
	+@$(MAKE) --no-print-directory -k $(in_parallel) -f tests/gpu/gpu.mk all || true
	@echo 'for the emulated GPU only (make check): $(ONLY_EMULATED:tests/%.c=%)'
	@NVCC='$(NVCC)' GPU_CARRIED='$(CARRIED)' tests/gpu/check.sh $(BUILD) $(notdir $(TESTS)) $(if $(EMULATED),,$(CARRIED))

carried:
	@echo $(CARRIED)

bench:
	+@$(MAKE) --no-print-directory $(in_parallel) -f tests/gpu/gpu.mk programs
	@tests/gpu/bench.sh $(BUILD)

NN_FLAGS := -ffp-contract=fast -fno-math-errno -fno-trapping-math
CPPFLAGS_ALL := $(if $(EMULATED),-Itests/emulator,-isystem $(CUDA_INCLUDE)) -Isrc -Itests \
                -isystem tests/gpu/standin -D_XOPEN_SOURCE=700 -D_DEFAULT_SOURCE
CFLAGS_ALL := -std=c11 -O3 -g -march=$(MARCH) -Wall -Wextra -Wno-unknown-pragmas $(CFLAGS)

$(BUILD)/src/nn/%.o: extra = $(NN_FLAGS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC $<'
	@$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(extra) -MMD -MP -c $< -o $@

ifdef EMULATED
compile_device = $(CXX) -Itests/emulator -Isrc -std=c++17 -O2 -g -march=$(MARCH) -Wall -Wextra -Wno-unknown-pragmas \
                 -ffp-contract=off -MMD -MP -x c++ -c $< -o $@
link = $(CXX) $(filter %.o %.a,$^) -lm -o $@
else
compile_device = $(NVCC) -std=c++17 -O3 -lineinfo $(NVCC_GENCODE) -Isrc -Xcompiler -Wall,-Wextra -MMD -MP -MF $(@:.o=.d) \
                 -c $< -o $@
link = $(NVCC) -cudart static $(filter %.o %.a,$^) -Xcompiler -static-libstdc++,-static-libgcc -lm -o $@
endif

$(BUILD)/%.cu.o: %.cu
	@mkdir -p $(@D)
	@echo '  NVCC $<'
	@$(compile_device)

$(BUILD)/tests/emulator/%.o: tests/emulator/%.cc
	@mkdir -p $(@D)
	@$(compile_device)

$(LIB): $(LIB_OBJ)
	@rm -f $@ && ar rcs $@ $^

$(BUILD)/bench_gpu: $(BENCH_OBJ) $(LIB)
	@$(link)

$(BUILD)/compare_torch: $(BUILD)/tests/gpu/compare_torch.o $(LIB)
	@$(link)

$(TESTS): $(BUILD)/%: $(BUILD)/tests/%.o $(LIB)
	@$(link)

-include $(OBJ:.o=.d)
