#!/bin/sh
# Install the Debian or Ubuntu packages that tests and demo need and this machine lacks.
#
# usage: packages.sh            installs, as root; says what and why
#        packages.sh --vm       the same for the virtual machine of tests/vm, which only `make test` has
#        packages.sh --python   prints the interpreter for .venv, nothing if there is none
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=

# want PACKAGE REASON COMMAND...: if COMMAND fails, PACKAGE is missing.
want() {
    package=$1 reason=$2
    shift 2
    "$@" >/dev/null 2>&1 && return
    missing="$missing $package"
    printf 'deps: %-24s %s\n' "$package" "$reason"
}

has() { command -v "$1"; }
library() { ldconfig -p | grep -q "$1"; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; }

python() {
    for name in python3.11 python3.12 python3.13 python3.14 python3; do
        # A command of that name need not work, nor have the venv module: Debian packs it apart.
        if new_enough "$name" && "$name" -c 'import ensurepip, venv'; then
            command -v "$name"
            return
        fi
    done 2>/dev/null
    return 1
}

# Name the package with the venv module for the interpreter that is there, or is to come with it.
venv_package() {
    for name in python3.11 python3.12 python3.13 python3.14; do
        if new_enough "$name" 2>/dev/null; then
            echo "$name-venv"
            return
        fi
    done
    # The distribution's own Python 3 is too old: some have a newer one besides.
    if has python3 >/dev/null; then echo python3.11-venv; else echo python3-venv; fi
}

for_vm() {
    want qemu-system-x86 "runs Debian's kernel for tests of what this one may lack" has qemu-system-x86_64
    want qemu-utils 'lays a disk of its own over the kept one' has qemu-img
    want e2fsprogs 'makes the disk' has mke2fs
}

for_all() {
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        want "$(venv_package)" 'makes .venv, where pynet is installed' python
    fi
    if ! .venv/bin/python -c 'import importlib.metadata as m; m.version("python-iptables")' >/dev/null 2>&1; then
        want gcc 'pip compiles python-iptables, which comes as source only' has cc
        want libc6-dev 'its headers, for the same' test -e /usr/include/stdio.h
    fi
    want libnftables1 'pynet writes its rules through this library' library libnftables.so.1
    want nftables 'the command nft, for tests and people to read the rules' has nft
    want iptables 'pynet adds one accept to the chain DOCKER-USER of the engine' has iptables-nft
    want iproute2 'the command ip, for namespaces and links of the lab' has ip
    want iputils-ping 'tests ping between the machines of the lab' has ping
    want curl 'the second machine of the lab fetches pages with it' has curl
    want tcpdump 'tests watch packets with it' has tcpdump
    want dnsmasq-base 'gives out addresses on the LANs of tests' has dnsmasq
    want mount 'the lab gives each engine mounts of its own' has mount
    want mmdebstrap "builds the engines' root file systems from Debian packages" has mmdebstrap
    want debian-archive-keyring 'the keys that those packages are signed with' \
        test -e /usr/share/keyrings/debian-archive-keyring.gpg
    want ca-certificates 'pip trusts the package index by these' test -e /etc/ssl/certs/ca-certificates.crt
}

case "${1-}" in
--python)
    python || true
    exit
    ;;
--vm) for_vm ;;
*) for_all ;;
esac

[ -n "$missing" ] || exit 0
if ! has apt-get >/dev/null; then
    echo "deps: no apt-get here; install what gives the same as Debian's$missing" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "deps: not root; run: sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "deps: installing them with apt-get"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# An update that fails for some other source of packages need not matter.
apt-get -q update >"$log" 2>&1 || true
# shellcheck disable=SC2086  # one word for each package
apt-get -q -y install --no-install-recommends $missing >>"$log" 2>&1 || {
    tail -20 "$log" >&2
    echo "deps: apt-get could not install$missing" >&2
    exit 1
}
