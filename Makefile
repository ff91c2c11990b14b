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

REVISION := $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || echo unknown)

OPTIMISE := $(if $(DEBUG),-O1,-O3) -g -march=$(MARCH)
SANITIZE := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
WARN := -Wall -Wextra -Wshadow -Wconversion -Wvla -Wundef -Wstrict-prototypes -Wmissing-prototypes \
        $(if $(WERROR),-Werror)
CPPFLAGS_ALL = -Isrc -Idata_split -D_XOPEN_SOURCE=700 -D_DEFAULT_SOURCE $(MPI_CFLAGS) $(HDF5_CFLAGS) $(DNNL_CFLAGS) $(NIFTI_CFLAGS)
CFLAGS_ALL = -std=c11 $(OPTIMISE) $(SANITIZE) -fopenmp $(WARN) $(CFLAGS)
LDFLAGS_ALL = $(SANITIZE) -fopenmp $(LDFLAGS)
LIBS_ALL = $(MPI_LIBS) $(HDF5_LIBS) $(DNNL_LIBS) $(INIH_LIBS) $(SODIUM_LIBS) $(ZLIB_LIBS) -lm

# Only the network's kernels may contract a*b+c into one rounding; privacy, aggregation and I/O never.
NN_FLAGS := -ffp-contract=fast -fno-math-errno -fno-trapping-math

# --- sources: every file in these folders ---------------------------------------------------------------------------------

LIB := $(BUILDDIR)/libfedbrats.a
LIB_SRC := $(wildcard src/*/*.c) $(filter-out $(wildcard data_split/brats_*.c),$(wildcard data_split/*.c))
LIB_OBJ = $(LIB_SRC:%.c=$(BUILDDIR)/%.o)
# The network again in double precision: the oracle of the gradient tests.
DOUBLE_LIB := $(BUILDDIR)/libnn_double.a
DOUBLE_SRC := $(filter-out src/nn/op_dnnl.c $(wildcard src/nn/kernels*.c) src/nn/metric.c,$(wildcard src/nn/*.c))
DOUBLE_OBJ = $(DOUBLE_SRC:%.c=$(BUILDDIR)/double/%.o)
PROGRAMS := $(BINDIR)/fedbrats $(BINDIR)/brats-phantom $(BINDIR)/brats-split
TESTS := $(patsubst %.c,$(BUILDDIR)/%,$(wildcard tests/test_*.c))
BENCHES := $(patsubst %.c,$(BUILDDIR)/%,$(wildcard tests/bench/bench_*.c))
# --- cuDNN: compiled where its headers are; the library is linked by two tests only --------------------------

CUDNN_HOME ?= $(or $(CUDA_HOME),/usr/local/cuda)
CUDNN_CFLAGS ?= -isystem$(CUDNN_HOME)/include
CUDNN_LIBS ?= -L$(CUDNN_HOME)/lib64 -Wl,-rpath,$(CUDNN_HOME)/lib64 -lcudnn -lcudart
DOUBLE_SRC := $(filter-out src/nn/conv_cudnn%.c,$(DOUBLE_SRC))
ifeq ($(wildcard $(CUDNN_HOME)/include/cudnn_graph.h),)
LIB_SRC := $(filter-out src/nn/conv_cudnn%.c,$(LIB_SRC))
TESTS := $(filter-out $(BUILDDIR)/tests/test_conv_cudnn%,$(TESTS))
endif

# --- end of cuDNN ------------------------------------------------------------------------------------------------------------

OBJ := $(LIB_OBJ) $(DOUBLE_OBJ) $(TESTS:=.o) $(BENCHES:=.o) $(BUILDDIR)/src/main.o \
       $(BUILDDIR)/data_split/brats_phantom.o $(BUILDDIR)/data_split/brats_split.o

FLAGS := $(BUILDDIR)/flags.stamp
REVISION_STAMP := $(BUILDDIR)/revision.stamp
PROBE := $(BUILDDIR)/probe.log

.PHONY: all deps demo check check-long bench install uninstall config lint format clean help _demo _check _bench _tests FORCE

all: $(PROGRAMS)

help:
	@echo 'make demo        phantom cohort, a small sharing x privacy sweep on the CPU, figure in results/demo/'
	@echo 'make check       build and run every test; ends with "N passed, N failed, N skipped"'
	@echo 'make all         build bin/fedbrats, bin/brats-phantom, bin/brats-split'
	@echo 'make deps        install what is missing (root, Debian), or print the command'
	@echo 'make config      show what the build found'
	@echo 'make bench       speed and memory of a training step'
	@echo 'make check SAN=address,undefined   the tests with sanitizers'
	@echo 'make check-long  the longer proofs too'
	@echo 'make lint        source rules;   make format: clang-format'
	@echo 'make install     to $$(DESTDIR)$$(PREFIX); make uninstall takes it back'
	@echo 'make clean       remove build/ and bin/'
	@sed -n '/^# Variables/,/^#   V=1/s/^# \{0,1\}//p' Makefile

# --- the two first commands: install, then start again so that the new packages are seen ----------------------------------

deps:
	$(Q)tools/install-deps.sh

demo: deps
	+$(Q)$(MAKE) --no-print-directory _demo

check: deps
	+$(Q)$(MAKE) --no-print-directory _check WERROR=1

check-long: deps
	+$(Q)$(MAKE) --no-print-directory _check WERROR=1 LONG=1

bench: deps
	+$(Q)$(MAKE) --no-print-directory _bench

_demo: all
	$(Q)jobs/demo.sh $(BINDIR) $(PYTHON)

_check: _tests
	$(Q)FB_BIN=$(abspath $(BINDIR)) FB_BUILD=$(abspath $(BUILDDIR)) FB_PYTHON=$(PYTHON) FB_LONG=$(LONG) FB_SAN=$(SAN) \
	    tests/run.sh $(TESTS)

_tests: all $(TESTS)

_bench: all $(BENCHES)
	$(Q)FB_BIN=$(abspath $(BINDIR)) tests/bench/run.sh $(BENCHES)

# --- compiling --------------------------------------------------------------------------------------------------------------

# A stamp is rewritten only when its text changed. What the flags' one says goes into every object; -Werror changes no
# object, so that make demo, make check and make install build once.
$(FLAGS): text = $(CC) $(CPPFLAGS_ALL) $(filter-out -Werror,$(CFLAGS_ALL)) $(LDFLAGS_ALL) $(LIBS_ALL) $(CMOCKA_LIBS)
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

define compile
@mkdir -p $(@D)
$(if $(Q),@echo '  CC $<')
$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(extra) -MMD -MP -c $< -o $@
endef

define link
@mkdir -p $(@D)
$(if $(Q),@echo '  LD $@')
$(Q)$(CC) $(LDFLAGS_ALL) $(filter %.o %.a,$^) $(extra_libs) $(LIBS_ALL) -o $@
endef

$(BUILDDIR)/src/nn/%.o: extra = $(NN_FLAGS)
$(BUILDDIR)/double/%.o: extra = -DFB_REAL=double
$(BUILDDIR)/src/nn/conv_cudnn%.o: extra = $(NN_FLAGS) $(CUDNN_CFLAGS)
$(BUILDDIR)/tests/%.o: extra = -Itests
$(BUILDDIR)/tests/%_double.o: extra = -Itests -DFB_REAL=double
$(BUILDDIR)/tests/test_conv_cudnn%.o: extra = -Itests $(CUDNN_CFLAGS)
$(BUILDDIR)/src/core/build_info.o: extra = -DFB_VERSION='"$(VERSION)"' -DFB_REVISION='"$(REVISION)"' \
    -DFB_FLAGS='"$(OPTIMISE) $(SANITIZE) $(NN_FLAGS) $(CFLAGS)"'

$(BUILDDIR)/src/core/build_info.o: $(REVISION_STAMP)
$(OBJ): $(FLAGS) | $(PROBE)

$(BUILDDIR)/double/%.o: %.c
	$(compile)

$(BUILDDIR)/%.o: %.c
	$(compile)

$(LIB): $(LIB_OBJ)
	$(Q)rm -f $@ && ar rcs $@ $^

$(DOUBLE_LIB): $(DOUBLE_OBJ)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BINDIR)/fedbrats: $(BUILDDIR)/src/main.o $(LIB)
	$(link)

$(BINDIR)/brats-%: $(BUILDDIR)/data_split/brats_%.o $(LIB)
	$(link)

$(TESTS): extra_libs = $(CMOCKA_LIBS)
$(addprefix $(BUILDDIR)/tests/,test_conv_cudnn test_conv_cudnn_gpu): extra_libs = $(CUDNN_LIBS) $(CMOCKA_LIBS)
$(filter %_double,$(TESTS)): %: %.o $(DOUBLE_LIB) $(LIB)
	$(link)

$(BENCHES) $(filter-out %_double,$(TESTS)): %: %.o $(LIB)
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

clean:
	rm -rf build bin

FORCE:

-include $(OBJ:.o=.d)
