# SPDX-License-Identifier: GPL-2.0
#
# `make help` says what there is.

# In the kernel's own build only Kbuild matters.
ifeq ($(KERNELRELEASE),)

TOP := $(CURDIR)
MODULE_DIR ?= $(TOP)/build

# The kernel to build for, and a directory that its Rust modules can be built
# against: what tools/rust-kdir prepared, else the kernel's headers as they are.
KVER ?= $(shell uname -r)
KDIR ?= $(firstword $(wildcard /usr/lib/linux-rust/$(KVER)) /lib/modules/$(KVER)/build)

# For setup, run and test: where the toolchain is kept.
export AZIHSM_CACHE ?= $(TOP)/.cache

ENTER := tests/toolchain/enter

.DEFAULT_GOAL := module

.PHONY: help
help:
	@echo 'On a machine with nothing prepared, as root or where users may create namespaces:'
	@echo '  make run       boot a virtual HSM, load the driver, run a client against it'
	@echo '  make test      run every test'
	@echo '  make setup     only prepare what these two need, in $(AZIHSM_CACHE)'
	@echo '  make check     only the checks of the source'
	@echo '  make test-full all tests in all configurations: half an hour or more'
	@echo '  make bench     measure the driver; MODULE=FILE: another one, too, to compare'
	@echo '  make fuzz      anything at all as ioctls, on a kernel with the address sanitizer:'
	@echo '                 SECONDS=600, and SEED=number to have the same calls once more'
	@echo '  make chaos     faults, kills, resets and unbinding at random, on a kernel that checks locks:'
	@echo '                 SECONDS=600, SEED=number'
	@echo '  make mutants   break the driver in every way, and see a test fail each time: 300 builds and boots'
	@echo 'On a machine with a Rust-ready kernel directory:'
	@echo '  make           build azihsm.ko for KVER=$(KVER) against KDIR=$(KDIR)'
	@echo '  make install   install it'
	@echo 'Always:'
	@echo '  make clean     remove what was built'
	@echo '  make distclean remove the toolchain, too'

.PHONY: module
module: kdir
	@mkdir -p $(MODULE_DIR)
	+$(MAKE) -C $(KDIR) M=$(TOP) MO=$(MODULE_DIR) modules

.PHONY: install
install: kdir
	+$(MAKE) -C $(KDIR) M=$(TOP) MO=$(MODULE_DIR) modules_install

# rustc's own words on missing metadata fill a screen and do not help.
.PHONY: kdir
kdir:
	@test -e $(KDIR)/Makefile || { \
		echo 'azihsm: no kernel headers in $(KDIR): install linux-headers-$(KVER), or set KDIR' >&2; \
		exit 1; }
	@test -e $(KDIR)/rust/libkernel.rmeta || { \
		echo 'azihsm: $(KDIR) cannot build Rust modules: run tools/rust-kdir $(KVER) as root, or set KDIR' >&2; \
		exit 1; }

.PHONY: setup
setup:
	@tests/toolchain/setup

.PHONY: run
run: setup
	@$(ENTER) tests/run demo

.PHONY: test
test: setup
	@$(ENTER) tests/run test

.PHONY: test-full
test-full: setup
	@$(ENTER) tests/run test-full

# The toolchain sees no more than the checkout.
.PHONY: bench
bench: setup
	@$(if $(MODULE),mkdir -p build && cp $(MODULE) build/other.ko)
	@$(ENTER) tests/run bench $(if $(MODULE),build/other.ko)

.PHONY: fuzz
fuzz: setup
	@$(ENTER) tests/run fuzz $(or $(SECONDS),600) $(SEED)

.PHONY: chaos
chaos: setup
	@$(ENTER) tests/run chaos $(or $(SECONDS),600) $(SEED)

.PHONY: mutants
mutants: setup
	@$(ENTER) tests/run mutants

.PHONY: check
check: setup
	@$(ENTER) tests/run check

.PHONY: clean
clean:
	rm -rf build

.PHONY: distclean
distclean: clean
	rm -rf $(AZIHSM_CACHE)

endif
