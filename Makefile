# SPDX-License-Identifier: Apache-2.0
#
# FedBraTS. `make help` lists the targets; `make demo` and `make check` each work as the first command on a bare
# Debian 12: as root they install what is missing, otherwise they print the command that does.
#
# Variables (command line or environment):
#   CC, CFLAGS, LDFLAGS      compiler and extra flags
#   MARCH=native             instruction set of the build; part of a run's identity
#   DEBUG=1                  -O1 with debug information
#   SAN=address,undefined    sanitizers
#   WERROR=1                 warnings are errors (set by make check)
#   PYTHON=/usr/bin/python3  with h5py, xarray, h5netcdf, matplotlib
#   PREFIX=/usr/local DESTDIR=   for install
#   CUDA=auto|0|1            GPU backend: where nvcc is, never, or it must be there
#   NCCL=auto|0|1            NCCL between GPUs, likewise
#   CUDNN=auto|0|1           plans of cuDNN for convolutions on a GPU, likewise
#   CUDA_HOME=/usr/local/cuda NCCL_HOME=$(CUDA_HOME) CUDNN_HOME=$(CUDA_HOME)   where their include/ and lib64/ are
#   NVCC_GENCODE='-gencode=arch=compute_90,code=sm_90'
#   HDF5_CFLAGS, HDF5_LIBS, MPI_CFLAGS, MPI_LIBS, DNNL_CFLAGS, DNNL_LIBS, ...   where pkg-config does not know
#   V=1                      show commands

.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

VERSION := 0.1.0
PREFIX ?= /usr/local
PYTHON ?= /usr/bin/python3
MARCH ?= native
V ?= 0
Q := $(if $(filter 0,$(V)),@)

# --- configuration: one build folder each --------------------------------------------------------------------------------

comma := ,
CONFIG := $(if $(DEBUG),debug,release)$(if $(SAN),-$(subst $(comma),-,$(SAN)))
BUILDDIR ?= build/$(CONFIG)
BINDIR ?= $(if $(filter release,$(CONFIG)),bin,$(BUILDDIR)/bin)

PKG := pkg-config
isystem = $(patsubst -I%,-isystem%,$(1))
MPI_CFLAGS ?= $(call isystem,$(shell $(PKG) --cflags ompi-c 2>/dev/null))
MPI_LIBS ?= $(or $(shell $(PKG) --libs ompi-c 2>/dev/null),-lmpi)
HDF5_CFLAGS ?= $(call isystem,$(shell $(PKG) --cflags hdf5-serial 2>/dev/null))
HDF5_LIBS ?= $(or $(shell $(PKG) --libs-only-L hdf5-serial 2>/dev/null) -lhdf5_serial_hl -lhdf5_serial,-lhdf5_hl -lhdf5)
DNNL_LIBS ?= -ldnnl
INIH_LIBS ?= $(or $(shell $(PKG) --libs inih 2>/dev/null),-linih)
SODIUM_LIBS ?= $(or $(shell $(PKG) --libs libsodium 2>/dev/null),-lsodium)
ZLIB_LIBS ?= -lz
NIFTI_CFLAGS ?= -isystem/usr/include/nifti
CMOCKA_LIBS ?= -lcmocka
# Expanded once, not for every file.
$(foreach name,MPI_CFLAGS MPI_LIBS HDF5_CFLAGS HDF5_LIBS INIH_LIBS SODIUM_LIBS,$(eval $(name) := $(value $(name))))

# --- CUDA: files that end in _cuda.c and .cu, or, without it, those that end in _cuda_none.c ---------------------------------

CUDA ?= auto
CUDA_HOME ?= /usr/local/cuda
NVCC ?= $(CUDA_HOME)/bin/nvcc
# Machine code for Hopper, and PTX from which the driver makes it for every GPU since Ampere.
NVCC_GENCODE ?= -gencode=arch=compute_90,code=sm_90 -gencode=arch=compute_80,code=compute_80
CUDA_LIBDIR := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib))
HAVE_CUDA := $(if $(filter 0,$(CUDA)),,$(shell CC='$(CC)' tools/probe-cuda.sh '$(NVCC)' '$(CUDA_LIBDIR)' '$(NVCC_GENCODE)' \
             build/cuda.probe))
ifeq ($(CUDA)$(HAVE_CUDA),1)
$(error CUDA=1, but $(NVCC) does not compile and link a program: set CUDA_HOME, or build with CUDA=0)
endif
CUDA_CFLAGS := -isystem $(CUDA_HOME)/include
# The runtime is linked in, so that a program with the GPU backend starts where there is no CUDA.
CUDA_LIBS := $(if $(HAVE_CUDA),-L$(CUDA_LIBDIR) -lcudart_static -ldl -lrt -lpthread)
NVCC_FLAGS = -std=c++17 -O3 -lineinfo $(NVCC_GENCODE) -Isrc -Xcompiler -Wall,-Wextra,-fno-threadsafe-statics
EMULATOR := tests/emulator

# --- NCCL: a file each way. Its test brings a stand-in for the libraries and, without their headers, for those too. ---------

NCCL ?= auto
NCCL_HOME ?= $(CUDA_HOME)
NCCL_FOUND := $(if $(filter-out 0,$(NCCL)),$(and $(HAVE_CUDA),$(wildcard $(NCCL_HOME)/include/nccl.h),1))
ifeq ($(NCCL)$(NCCL_FOUND),1)
$(error NCCL=1, but $(NCCL_HOME)/include/nccl.h or CUDA is missing: set NCCL_HOME and CUDA_HOME)
endif
NCCL_CFLAGS := $(if $(NCCL_FOUND),$(patsubst %,-isystem%/include,$(sort $(NCCL_HOME) $(CUDA_HOME))),-isystemtests/fake_nccl)
NCCL_DIRS := $(wildcard $(foreach home,$(NCCL_HOME) $(CUDA_HOME),$(home)/lib64 $(home)/lib))
# NCCL is needed only by what uses it.
NCCL_LIBS := $(if $(NCCL_FOUND),$(foreach dir,$(NCCL_DIRS),-L$(dir) -Wl$(comma)-rpath$(comma)$(dir)) \
             -Wl$(comma)--push-state$(comma)--as-needed -lnccl -Wl$(comma)--pop-state)
NCCL_OTHER := $(if $(NCCL_FOUND),src/comm/comm_nccl_none.c,src/comm/comm_nccl.c src/comm/comm_nccl_link.c)

# --- cuDNN: its headers are needed to build, the library only by a run that uses it: nn/conv_cudnn_load.c loads it. -----------

CUDNN ?= auto
CUDNN_HOME ?= $(CUDA_HOME)
CUDNN_FOUND := $(if $(filter-out 0,$(CUDNN)),$(and $(HAVE_CUDA),$(wildcard $(CUDNN_HOME)/include/cudnn_graph.h),1))
ifeq ($(CUDNN)$(CUDNN_FOUND),1)
$(error CUDNN=1, but $(CUDNN_HOME)/include/cudnn_graph.h or CUDA is missing: set CUDNN_HOME and CUDA_HOME)
endif
CUDNN_CFLAGS ?= $(patsubst %,-isystem%/include,$(sort $(CUDNN_HOME) $(CUDA_HOME)))
# Where the program looks for libcudnn.so.9 before the system's folders.
CUDNN_LIBS ?= $(if $(CUDNN_FOUND),$(patsubst %,-Wl$(comma)-rpath$(comma)%,$(wildcard $(CUDNN_HOME)/lib64 $(CUDNN_HOME)/lib)) -ldl)
CUDNN_NONE := src/nn/conv_cudnn_none.c
CUDNN_USE := $(filter-out $(CUDNN_NONE) src/nn/conv_cudnn_choice.c,$(wildcard src/nn/conv_cudnn*.c))
CUDNN_OTHER := $(if $(CUDNN_FOUND),$(CUDNN_NONE),$(CUDNN_USE) $(wildcard tests/test_conv_cudnn*.c) tests/test_conv_choice_cuda.c)

REVISION := $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || echo unknown)

OPTIMISE := $(if $(DEBUG),-O1,-O3) -g -march=$(MARCH)
SANITIZE := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
WARN := -Wall -Wextra -Wshadow -Wconversion -Wvla -Wundef -Wstrict-prototypes -Wmissing-prototypes \
        $(if $(WERROR),-Werror)
CPPFLAGS_ALL = -Isrc -Idata_split -D_XOPEN_SOURCE=700 -D_DEFAULT_SOURCE $(MPI_CFLAGS) $(HDF5_CFLAGS) $(DNNL_CFLAGS) $(NIFTI_CFLAGS)
CFLAGS_ALL = -std=c11 $(OPTIMISE) $(SANITIZE) -fopenmp $(WARN) $(CFLAGS)
LDFLAGS_ALL = $(SANITIZE) -fopenmp $(LDFLAGS)
LIBS_ALL = $(MPI_LIBS) $(HDF5_LIBS) $(DNNL_LIBS) $(INIH_LIBS) $(SODIUM_LIBS) $(ZLIB_LIBS) $(NCCL_LIBS) $(CUDNN_LIBS) -lm

# Only the network's kernels may contract a*b+c into one rounding; privacy, aggregation and I/O never.
NN_FLAGS := -ffp-contract=fast -fno-math-errno -fno-trapping-math

# --- sources: every file in these folders ---------------------------------------------------------------------------------

LIB := $(BUILDDIR)/libfedbrats.a
CUDA_SRC := $(wildcard src/*/*_cuda.c)
CUDA_KERNELS := $(wildcard src/*/*.cu)
CUDA_NONE := $(wildcard src/*/*_cuda_none.c)
LIB_SRC := $(filter-out $(CUDA_NONE) $(CUDA_SRC) $(NCCL_OTHER) $(CUDNN_OTHER),$(wildcard src/*/*.c)) \
           $(filter-out $(wildcard data_split/brats_*.c),$(wildcard data_split/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(BUILDDIR)/%.o)
CUDA_LIB := $(BUILDDIR)/libfedbrats_cuda.a
CUDA_OBJ := $(patsubst %.c,$(BUILDDIR)/%.o,$(if $(HAVE_CUDA),$(CUDA_SRC),$(CUDA_NONE))) \
            $(if $(HAVE_CUDA),$(CUDA_KERNELS:%=$(BUILDDIR)/%.o))
# The GPU backend again, on the emulated GPU: every test can use it, with a GPU or without.
EMULATED_OBJ := $(CUDA_SRC:%.c=$(BUILDDIR)/emulated/%.o) $(CUDA_KERNELS:%=$(BUILDDIR)/emulated/%.o) \
                $(patsubst %.cc,$(BUILDDIR)/emulated/%.o,$(wildcard $(EMULATOR)/*.cc)) $(BUILDDIR)/src/comm/comm_nccl_none.o \
                $(CUDNN_NONE:%.c=$(BUILDDIR)/%.o)
# Kernels with faults, of the test of the emulated GPU.
FAULTS_OBJ := $(BUILDDIR)/emulated/$(EMULATOR)/faults.cu.o
# The network again in double precision: the oracle of the gradient tests.
DOUBLE_LIB := $(BUILDDIR)/libnn_double.a
DOUBLE_SRC := $(filter-out src/nn/op_dnnl.c $(wildcard src/nn/*cuda*.c src/nn/*cudnn*.c src/nn/kernels*.c) src/nn/conv_choice.c src/nn/metric.c,$(wildcard src/nn/*.c))
DOUBLE_OBJ := $(DOUBLE_SRC:%.c=$(BUILDDIR)/double/%.o)
PROGRAMS := $(BINDIR)/fedbrats $(BINDIR)/brats-phantom $(BINDIR)/brats-split
TESTS := $(patsubst %.c,$(BUILDDIR)/%,$(filter-out $(CUDNN_OTHER),$(wildcard tests/test_*.c)))
BENCHES := $(patsubst %.c,$(BUILDDIR)/%,$(wildcard tests/bench/bench_*.c))
EMULATED := $(BUILDDIR)/emulated/fedbrats
# What make gpu-bench runs on a real GPU (tests/gpu).
EMULATED_BENCHES := $(BUILDDIR)/emulated/bench_gpu $(BUILDDIR)/emulated/compare_torch
GPU_BENCH_OBJ := $(patsubst %.c,$(BUILDDIR)/emulated/%.o,$(wildcard tests/gpu/bench_*.c)) \
                 $(BUILDDIR)/emulated/tests/gpu/bench_device.cu.o
GPU_COMPARE_OBJ := $(BUILDDIR)/emulated/tests/gpu/compare_torch.o
OBJ := $(LIB_OBJ) $(CUDA_OBJ) $(EMULATED_OBJ) $(FAULTS_OBJ) $(DOUBLE_OBJ) $(TESTS:=.o) $(BENCHES:=.o) $(BUILDDIR)/src/main.o \
       $(GPU_BENCH_OBJ) $(GPU_COMPARE_OBJ) \
       $(BUILDDIR)/data_split/brats_phantom.o $(BUILDDIR)/data_split/brats_split.o

FLAGS := $(BUILDDIR)/flags.stamp
REVISION_STAMP := $(BUILDDIR)/revision.stamp
PROBE := $(BUILDDIR)/probe.log

.PHONY: all deps deps-tests demo check check-long gpu-check gpu-bench gpu-carry bench dist install uninstall config lint format clean help _demo _check _bench _tests _dist _gpu_carry FORCE

all: $(PROGRAMS)

help:
	@echo 'make demo        phantom cohort, a small sharing x privacy sweep on the CPU, figure in results/demo/'
	@echo 'make check       build and run every test; ends with "N passed, N failed, N skipped"'
	@echo 'make all         build bin/fedbrats, bin/brats-phantom, bin/brats-split'
	@echo 'make deps        install what is missing (root, Debian), or print the command'
	@echo 'make config      show what the build found'
	@echo 'make bench       speed and memory of a training step'
	@echo 'make gpu-check   the tests of the GPU backend on a GPU; make gpu-bench: its speed (tests/gpu/README.md)'
	@echo 'make check SAN=address,undefined   the tests with sanitizers'
	@echo 'make check-long  the longer proofs too'
	@echo 'make lint        source rules;   make format: clang-format'
	@echo 'make install     to $$(DESTDIR)$$(PREFIX); make uninstall takes it back'
	@echo 'make dist        dist/fedbrats-VERSION-x86_64.tar.gz: programs and libraries that run from any folder'
	@echo 'make clean       remove build/, bin/ and dist/'
	@sed -n '/^# Variables/,/^#   V=1/s/^# \{0,1\}//p' Makefile

# --- the two first commands: install, then start again so that the new packages are seen ----------------------------------

deps:
	$(Q)tools/install-deps.sh

deps-tests: deps
	$(Q)tools/install-deps.sh --tests

demo: deps
	+$(Q)$(MAKE) --no-print-directory _demo

check: deps-tests
	+$(Q)$(MAKE) --no-print-directory _check WERROR=1

check-long: deps-tests
	+$(Q)$(MAKE) --no-print-directory _check WERROR=1 LONG=1

bench: deps
	+$(Q)$(MAKE) --no-print-directory _bench

_demo: all
	$(Q)jobs/demo.sh $(BINDIR) $(PYTHON)

_check: _tests
	$(Q)FB_BIN=$(abspath $(BINDIR)) FB_BUILD=$(abspath $(BUILDDIR)) FB_PYTHON=$(PYTHON) FB_LONG=$(LONG) FB_SAN=$(SAN) \
	    tests/run.sh $(TESTS)

_tests: all $(TESTS) $(EMULATED) $(EMULATED_BENCHES)

# With a build of their own, as a machine with a GPU may have little else.
gpu-check gpu-bench:
	+$(Q)$(MAKE) --no-print-directory -f tests/gpu/gpu.mk $(@:gpu-%=%)

# All that gpu-check and gpu-bench run, in build/carry, with the libraries that a machine with a GPU may lack.
gpu-carry: deps
	+$(Q)$(MAKE) --no-print-directory -f tests/gpu/gpu.mk
	+$(Q)$(MAKE) --no-print-directory _gpu_carry CUDA=1 MARCH=$(DIST_MARCH) BUILDDIR=build/gpu-all BINDIR=build/gpu-all/bin

CARRIED := $(patsubst %,build/carry/%,$(filter-out $(CUDNN_OTHER:tests/%.c=%),\
           $(shell $(MAKE) -s --no-print-directory -f tests/gpu/gpu.mk EMULATED=1 carried)))
_gpu_carry: $(CARRIED)
	$(Q)mkdir -p build/carry/lib
	$(Q)ldd $^ | awk '$$2 == "=>" && $$1 !~ /^lib(c|m|dl|rt|pthread|resolv)\.so|^lib(cu|nv)/ { print $$3 }' | sort -u | \
	    xargs cp -u -t build/carry/lib
	$(Q)cp -u build/gpu/bench_gpu build/gpu/compare_torch build/gpu/test_*_cuda build/carry
	$(Q)strip -g build/carry/bench_gpu build/carry/compare_torch build/carry/test_*_cuda

$(BUILDDIR)/carried/%.o: extra = $(CUDA_CFLAGS) $(CUDNN_CFLAGS) -Itests
$(BUILDDIR)/carried/%.o: %.c $(FLAGS) | $(PROBE)
	$(compile)
$(CARRIED): extra_libs = $(CMOCKA_LIBS) -Wl,--as-needed $(if $(CUDNN_OTHER),,$(CUDNN_LIBS))
$(CARRIED): build/carry/%: $(BUILDDIR)/carried/tests/%.o $(LIB) $(CUDA_LIB)
	$(link)

_bench: all $(BENCHES)
	$(Q)FB_BIN=$(abspath $(BINDIR)) tests/bench/run.sh $(BENCHES)

# --- compiling --------------------------------------------------------------------------------------------------------------

# A stamp is rewritten only when its text changed. What the flags' one says goes into every object; -Werror changes no
# object, so that make demo, make check and make install build once.
$(FLAGS): text = $(CC) $(CPPFLAGS_ALL) $(filter-out -Werror,$(CFLAGS_ALL)) $(LDFLAGS_ALL) $(LIBS_ALL) $(CMOCKA_LIBS) $(NVCC_FLAGS) $(CUDA_LIBS)
$(REVISION_STAMP): text = $(VERSION) $(REVISION)
$(FLAGS) $(REVISION_STAMP): FORCE
	@mkdir -p $(@D)
	@echo '$(text)' | cmp -s - $@ || echo '$(text)' > $@

# Compile-and-link probes: says what was found, stops with the package's name when something needed is absent.
probe = CC='$(CC)' CPPFLAGS='$(CPPFLAGS_ALL)' MPI_LIBS='$(MPI_LIBS)' HDF5_LIBS='$(HDF5_LIBS)' DNNL_LIBS='$(DNNL_LIBS)' \
        INIH_LIBS='$(INIH_LIBS)' SODIUM_LIBS='$(SODIUM_LIBS)' ZLIB_LIBS='$(ZLIB_LIBS)' CMOCKA_LIBS='$(CMOCKA_LIBS)' \
        PYTHON='$(PYTHON)' tools/probe.sh
$(PROBE): tools/probe.sh $(FLAGS)
	@$(probe) > $@

config:
	@echo 'version   $(VERSION) ($(REVISION))'
	@echo 'compiler  $(CC) $(CFLAGS_ALL)'
	@echo 'build     $(BUILDDIR), programs in $(BINDIR)'
	@$(probe)
	@echo 'cuda      $(if $(HAVE_CUDA),$(NVCC) $(NVCC_GENCODE),not built in)'
	@echo 'nccl      $(or $(NCCL_FOUND),not built in)'
	@echo 'cudnn     $(or $(CUDNN_FOUND),not built in)'

define compile
@mkdir -p $(@D)
$(if $(Q),@echo '  CC $<')
$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(extra) -MMD -MP -c $< -o $@
endef

cuda_libs = $(CUDA_LIBS)
define link
@mkdir -p $(@D)
$(if $(Q),@echo '  LD $@')
$(Q)$(CC) $(LDFLAGS_ALL) $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(extra_libs) $(LIBS_ALL) $(cuda_libs) -o $@
endef

$(BUILDDIR)/src/nn/%.o: extra = $(NN_FLAGS)
$(CUDA_SRC:%.c=$(BUILDDIR)/%.o): extra = $(CUDA_CFLAGS)
$(BUILDDIR)/emulated/%.o: extra = -I$(EMULATOR)
$(BUILDDIR)/emulated/tests/%.o: extra = -I$(EMULATOR) -Itests
$(BUILDDIR)/double/%.o: extra = -DFB_REAL=double
$(BUILDDIR)/src/nn/conv_cudnn%.o: extra = $(CUDNN_CFLAGS)
$(BUILDDIR)/tests/%.o: extra = -Itests
$(BUILDDIR)/src/comm/comm_nccl_link.o: extra = $(NCCL_CFLAGS)
$(BUILDDIR)/tests/test_comm_nccl.o: extra = -Itests $(NCCL_CFLAGS)
$(BUILDDIR)/tests/%_double.o: extra = -Itests -DFB_REAL=double
$(BUILDDIR)/tests/test_conv_cudnn%.o: extra = -Itests $(CUDNN_CFLAGS)
$(BUILDDIR)/src/core/build_info.o: extra = -DFB_VERSION='"$(VERSION)"' -DFB_REVISION='"$(REVISION)"' \
    -DFB_FLAGS='"$(OPTIMISE) $(SANITIZE) $(NN_FLAGS) $(CFLAGS)"'

$(BUILDDIR)/src/core/build_info.o: $(REVISION_STAMP)
$(OBJ): $(FLAGS) | $(PROBE)

$(BUILDDIR)/double/%.o: %.c
	$(compile)

$(BUILDDIR)/emulated/%.o: %.c
	$(compile)

define compile_emulated
@mkdir -p $(@D)
$(if $(Q),@echo '  CXX $<')
$(Q)$(CXX) -I$(EMULATOR) -Isrc -std=c++17 $(if $(SAN),-O1 -g,$(OPTIMISE)) $(SANITIZE) -Wall -Wextra -Wshadow -Wno-unknown-pragmas \
    $(if $(WERROR),-Werror) \
    -ffp-contract=off -MMD -MP -x c++ -c $< -o $@
endef

$(BUILDDIR)/emulated/%.cu.o: %.cu
	$(compile_emulated)

$(BUILDDIR)/emulated/%.o: %.cc
	$(compile_emulated)

$(BUILDDIR)/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(if $(Q),@echo '  NVCC $<')
	$(Q)$(NVCC) $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

$(BUILDDIR)/%.o: %.c
	$(compile)

$(LIB): $(LIB_OBJ)
$(CUDA_LIB): $(CUDA_OBJ)
$(LIB) $(CUDA_LIB): $(FLAGS)
	$(Q)rm -f $@ && ar rcs $@ $(filter %.o,$^)

$(DOUBLE_LIB): $(DOUBLE_OBJ)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BINDIR)/fedbrats: $(BUILDDIR)/src/main.o $(LIB) $(CUDA_LIB)
	$(link)

$(EMULATED) $(EMULATED_BENCHES): extra_libs = -lstdc++
$(EMULATED) $(EMULATED_BENCHES) $(filter %_cuda,$(TESTS)): cuda_libs =
$(EMULATED): $(BUILDDIR)/src/main.o $(EMULATED_OBJ) $(LIB)
	$(link)

$(BUILDDIR)/emulated/bench_gpu: $(GPU_BENCH_OBJ) $(EMULATED_OBJ) $(LIB)
	$(link)

$(BUILDDIR)/emulated/compare_torch: $(GPU_COMPARE_OBJ) $(EMULATED_OBJ) $(LIB)
	$(link)

$(BINDIR)/brats-%: $(BUILDDIR)/data_split/brats_%.o $(LIB)
	$(link)

$(TESTS): extra_libs = $(CMOCKA_LIBS)
$(filter %_double,$(TESTS)): %: %.o $(DOUBLE_LIB) $(LIB) $(CUDA_LIB)
	$(link)

# Tests of the GPU backend: on the emulated GPU, and, for make gpu-check, on a real one.
$(filter %_cuda,$(TESTS)): extra_libs = $(CMOCKA_LIBS) -lstdc++
$(patsubst %,%.o,$(filter %_cuda,$(TESTS))): extra = -I$(EMULATOR) -Itests
# The one with a cuDNN of its own: the use of it, not its absence, and the headers of the real ones.
WITH_CUDNN := $(filter %/test_conv_choice_cuda,$(TESTS))
$(WITH_CUDNN:=.o): extra = -Itests $(CUDNN_CFLAGS)
$(WITH_CUDNN): %: %.o $(filter-out $(CUDNN_NONE:%.c=$(BUILDDIR)/%.o),$(EMULATED_OBJ)) $(LIB)
	$(link)

$(filter-out $(WITH_CUDNN),$(filter %_cuda,$(TESTS))): %: %.o $(EMULATED_OBJ) $(LIB)
	$(link)

$(BUILDDIR)/tests/test_emulated_cuda: $(FAULTS_OBJ)

$(BENCHES) $(filter-out %_double %_cuda,$(TESTS)): %: %.o $(LIB) $(CUDA_LIB)
	$(link)

# --- the rest ----------------------------------------------------------------------------------------------------------------

lint:
	$(Q)tests/lint.sh

format:
	$(Q)clang-format -i $$(git ls-files '*.c' '*.h')

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/fedbrats/analysis $(DESTDIR)$(PREFIX)/share/fedbrats/partitions
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 analysis/*.py $(DESTDIR)$(PREFIX)/share/fedbrats/analysis
	install -m 644 data_split/partitions/*.csv $(DESTDIR)$(PREFIX)/share/fedbrats/partitions

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(notdir $(PROGRAMS)))
	rm -rf $(DESTDIR)$(PREFIX)/share/fedbrats

# A bundle (DISTDIR=dist) is for other machines: an instruction set that most have, unless MARCH is given; own build folder.
DISTDIR ?= dist
DIST_MARCH := $(if $(filter file,$(origin MARCH)),x86-64-v3,$(MARCH))
DIST_BUILD := build/dist-$(DIST_MARCH)
dist: deps
	+$(Q)$(MAKE) --no-print-directory _dist MARCH=$(DIST_MARCH) BUILDDIR=$(DIST_BUILD) BINDIR=$(DIST_BUILD)/bin

_dist: all
	$(Q)tools/make-dist.sh $(BINDIR) $(BUILDDIR)/stage $(DISTDIR)/fedbrats-$(VERSION)-x86_64.tar.gz

clean:
	rm -rf build bin dist

FORCE:

-include $(OBJ:.o=.d)
