# SPDX-License-Identifier: GPL-2.0
#
# `make help` says what there is.

# In the kernel's own build only Kbuild matters.
ifeq ($(KERNELRELEASE),)

TOP := $(CURDIR)
MODULE_DIR ?= $(TOP)/build

# The kernel to build for, and a directory that its Rust modules can be built
# against: the kernel's headers, if the distribution has put into them what that
# takes, else what tools/rust-kdir prepared.
KVER ?= $(shell uname -r)
HEADERS := /lib/modules/$(KVER)/build
KDIR ?= $(if $(wildcard $(HEADERS)/rust/libkernel.rmeta),$(HEADERS),$\
	$(firstword $(wildcard /usr/lib/linux-rust/$(KVER)) $(HEADERS)))

# Where install-dev and install-system put their files.
DESTDIR ?=
PREFIX ?= /usr/local
VERSION := $(shell sed -n 's/^PACKAGE_VERSION="\(.*\)"$$/\1/p' $(TOP)/dkms.conf)
INSTALL_DATA := install -D -m 644

# For setup, run and test: where the toolchain is kept.
export AZIHSM_CACHE ?= $(TOP)/.cache

ENTER := tests/toolchain/enter

.DEFAULT_GOAL := module

.PHONY: help
help:
	@echo 'On a machine with nothing prepared, as root or where users may create namespaces:'
	@echo '  make run       boot a virtual HSM, load the driver, run a client against it'
	@echo '  make test      run the tests of every day: 40 minutes, 8 more the first time'
	@echo '  make setup     only prepare what these two need, in $(AZIHSM_CACHE)'
	@echo '  make check     only the checks of the source'
	@echo '  make test-full long tests and more machines, too: some hours;'
	@echo "                 PARTS='host stock old debug kasan': of the tests these only; make test"
	@echo '                 has all of these but kasan'
	@echo '  make test-install  make the packages, install them on a stock Debian, boot it with a'
	@echo '                 virtual HSM, use it as a member of the group, upgrade the kernel, remove it all'
	@echo '  make bench     measure the driver; MODULE=FILE: another one, too, to compare;'
	@echo "                 PARAMETERS='NAME=VALUE...': that, or else the driver itself, with these"
	@echo '  make coverage  which lines of the driver the everyday tests in virtual machines and KUnit'
	@echo '                 reach, and why not the others: 20 minutes, 8 more the first time'
	@echo '  make fuzz      anything at all as ioctls, on a kernel with the address sanitizer:'
	@echo '                 SECONDS=600, and SEED=number to have the same calls once more'
	@echo '  make fuzz-wire  what the driver makes of any completion, list or command at all: SECONDS=60, SEED=number'
	@echo '  make chaos     faults, kills, resets and unbinding at random, on a kernel that checks locks:'
	@echo '                 SECONDS=600, SEED=number'
	@echo '  make deb       Debian packages, in build/deb: azihsm-dkms, azihsm-dev, azihsmctl'
	@echo '  make mutants   break the driver in every way, and see a test fail each time: some 100 minutes'
	@echo 'On a machine with a Rust-ready kernel directory:'
	@echo '  make           build azihsm.ko for KVER=$(KVER) against KDIR=$(KDIR)'
	@echo '  make install   install it'
	@echo '  make install-system  as root: the group, the udev rule, the manual page'
	@echo '  make install-dev     the header, with a file for pkg-config, in PREFIX=$(PREFIX)'
	@echo 'Always:'
	@echo '  make audit     look the crates of the programs up in the advisory database'
	@echo '  make clean     remove what was built'
	@echo '  make distclean remove the toolchain, too'

.PHONY: module
module: kdir
	@mkdir -p $(MODULE_DIR)
	+$(MAKE) -C $(KDIR) M=$(TOP) MO=$(MODULE_DIR) modules

.PHONY: install
install: kdir
	+$(MAKE) -C $(KDIR) M=$(TOP) MO=$(MODULE_DIR) modules_install

# What belongs to a machine that has HSMs.  Udev, systemd and modprobe look in
# /usr only, whatever the prefix.
.PHONY: install-system
install-system:
	$(INSTALL_DATA) dist/70-azihsm.rules $(DESTDIR)/usr/lib/udev/rules.d/70-azihsm.rules
	$(INSTALL_DATA) dist/azihsm.sysusers $(DESTDIR)/usr/lib/sysusers.d/azihsm.conf
	$(INSTALL_DATA) dist/azihsm.modprobe $(DESTDIR)$(PREFIX)/share/doc/azihsm-dkms/examples/azihsm.conf
	$(INSTALL_DATA) dist/azihsm.4 $(DESTDIR)$(PREFIX)/share/man/man4/azihsm.4
ifeq ($(DESTDIR),)
	systemd-sysusers azihsm.conf
	udevadm control --reload
	udevadm trigger --subsystem-match=misc --sysname-match='azihsm[0-9]*'
endif

# Not among the system's headers, where the kernel's own may be one day.
.PHONY: install-dev
install-dev:
	$(INSTALL_DATA) include/uapi/linux/azihsm.h $(DESTDIR)$(PREFIX)/include/azihsm/linux/azihsm.h
	mkdir -p $(DESTDIR)$(PREFIX)/share/pkgconfig
	sed -e 's,@PREFIX@,$(PREFIX),' -e 's,@VERSION@,$(VERSION),' dist/azihsm.pc.in \
		>$(DESTDIR)$(PREFIX)/share/pkgconfig/azihsm.pc

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
	@$(ENTER) tests/run test $(PARTS)

.PHONY: test-full
test-full: setup
	@$(ENTER) tests/run test-full $(PARTS)

# The toolchain sees no more than the checkout.
.PHONY: bench
bench: setup
	@$(if $(MODULE),mkdir -p build && cp $(MODULE) build/other.ko)
	@$(ENTER) tests/run bench '$(if $(MODULE),build/other.ko)' '$(PARAMETERS)'

.PHONY: coverage
coverage: setup
	@$(ENTER) tests/run coverage

.PHONY: fuzz
fuzz: setup
	@$(ENTER) tests/run fuzz $(or $(SECONDS),600) $(SEED)

.PHONY: fuzz-wire
fuzz-wire: setup
	@$(ENTER) tests/run fuzz-wire $(or $(SECONDS),60) $(SEED)

.PHONY: chaos
chaos: setup
	@$(ENTER) tests/run chaos $(or $(SECONDS),600) $(SEED)

.PHONY: deb
deb: setup
	@$(ENTER) dist/deb build/deb

.PHONY: mutants
mutants: setup
	@$(ENTER) tests/run mutants

.PHONY: test-install
test-install: setup
	@$(ENTER) tests/run install

.PHONY: check
check: setup
	@$(ENTER) tests/run check

.PHONY: audit
audit:
	@tools/audit

.PHONY: clean
clean:
	rm -rf build

.PHONY: distclean
distclean: clean
	@test ! -e '$(AZIHSM_CACHE)' || test -e '$(AZIHSM_CACHE)/CACHEDIR.TAG' || { \
		echo 'azihsm: $(AZIHSM_CACHE) was not made by make setup: not removed' >&2; exit 1; }
	rm -rf '$(AZIHSM_CACHE)'

endif
