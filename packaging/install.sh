#!/bin/sh
# Install pynet as a service of this host, or upgrade it in place: `make install`.
#
# usage: install.sh PYTHON      a Python 3.11 or newer with its venv module
set -eu
python=${1-}
verb=install
cd "$(dirname "$0")/.."
. packaging/common.sh

refuse_elsewhere
[ -n "$python" ] || refuse "there is no Python 3.11 or newer with its venv module; on Debian install python3-venv"
# The service does not see the folders of users, so that nobody who breaks into it does.
for path in "$("$python" -c 'import sys; print(sys.executable)')" "$PREFIX"; do
    case $(readlink -m "$path") in
    /root/* | /home/* | /run/user/*)
        refuse "$path is in a user's folder, which the service cannot see; name others: make install PREFIX=/usr/local PYTHON=/usr/bin/python3"
        ;;
    esac
done
"$python" -c 'import ctypes; ctypes.CDLL("libnftables.so.1")' 2>/dev/null ||
    refuse "there is no libnftables.so.1, by which pynet writes its rules; on Debian install libnftables1"
lock=/run/docker/plugins/pynet/lock
if [ -e "$lock" ] && ! flock -n "$lock" true; then
    owner=$(cat "$lock")
    : "${owner:=another pynet}"
    case $owner in
    pynet.service) ;;
    'the managed plugin')
        for name in $(docker plugin ls --filter enabled=true --filter capability=ipamdriver --format '{{.Name}}') NAME; do
            # The last one stands for a plugin that an engine with another socket has.
            [ "$(docker plugin inspect -f '{{.Config.Entrypoint}}' "$name" 2>/dev/null)" = '[/usr/bin/pynet serve]' ] && break
        done
        refuse "$owner serves this host's engine already; turn it off first: docker plugin disable -f $name"
        ;;
    *) refuse "$owner serves this host's engine already; stop it first" ;;
    esac
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# pip leaves its work beside the sources.
cp -R pyproject.toml README.md LICENSE pynetdriver "$scratch"
if ! "$home/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "install: making a Python environment in $home with $python"
    "$python" -m venv --clear "$home"
fi
echo "install: building pynet's wheel and installing it there, with what it needs"
PIP_NO_CACHE_DIR=1 "$home/bin/python" -m pip install -q --disable-pip-version-check "$scratch" ||
    refuse "pip failed, see above; if it could not compile python-iptables: on Debian install gcc and libc6-dev"
mkdir -p "$PREFIX/bin"
ln -sf "$home/bin/pynet" "$command"

# put FILE: stdin, and what it is for.
put() {
    mkdir -p "$(dirname "$1")"
    cat >"$1"
    echo "install: $1"
}
echo "install: $command"
for unit in pynet.socket pynet.service; do
    sed "s,/usr/local,$PREFIX,g" "packaging/$unit" | put "$units/$unit"
done
if [ -e build/man/pynet.8 ]; then put "$manual" <build/man/pynet.8; fi
_PYNET_COMPLETE=bash_source "$command" 2>/dev/null | put "$bash_completion"
_PYNET_COMPLETE=zsh_source "$command" | put "$zsh_completion"
_PYNET_COMPLETE=fish_source "$command" | put "$fish_completion"

systemctl daemon-reload
systemctl -q enable pynet.socket pynet.service
systemctl start pynet.socket
systemctl reset-failed pynet.service
# Calls of the engine wait at the socket meanwhile; links and rules stay in place.
systemctl restart pynet.service ||
    refuse "pynet.service does not start; see why with: journalctl -u pynet.service -u pynet.socket"
echo "install: pynet.service runs, now and after each boot, before Docker Engine; its state is in $state"
echo "install: try it: docker network create -d pynet NAME"
