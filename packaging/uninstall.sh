#!/bin/sh
# Take away what install.sh has put on this host, and pynet's state: `make uninstall`.
set -eu
verb=uninstall
cd "$(dirname "$0")/.."
# What it was installed below, whatever is said now.
unit=/etc/systemd/system/pynet.service
[ ! -e "$unit" ] || PREFIX=$(sed -n 's,^ExecStart=\(.*\)/lib/pynet/bin/pynet serve$,\1,p' "$unit")
. packaging/common.sh

refuse_elsewhere
[ -e "$unit" ] || refuse "pynet is not installed as a service here"
if [ -e "$state/pynet.db" ]; then
    networks=$("$home/bin/python" -c '
import sys
from pathlib import Path
from pynetdriver.store.sqlite import SqliteStore
print(*(network[:12] for network in SqliteStore(Path(sys.argv[1])).load("network")))' "$state") ||
        refuse "pynet's state in $state cannot be read, see above; run make install before"
    [ -z "$networks" ] ||
        refuse "there are networks of pynet, whose containers would be cut off; remove them first: docker network rm $networks"
fi

systemctl -q disable --now pynet.service pynet.socket
for unit in pynet.socket pynet.service; do
    rm -rf "${units:?}/$unit" "${units:?}/$unit.d"
done
systemctl daemon-reload
for name in pynet.db pynet.db-wal pynet.db-shm lock machine-id; do
    rm -f "$state/$name"
done
rmdir "$state" 2>/dev/null || true # if nobody put anything else there
rm -rf "$home" "$command" "$manual" "$bash_completion" "$zsh_completion" "$fish_completion"
# Folders that only such files make, if they are empty.
for file in "$manual" "$bash_completion" "$zsh_completion" "$fish_completion"; do
    folder=$(dirname "$file")
    rmdir "$folder" 2>/dev/null && [ "$file" != "$manual" ] && rmdir "$(dirname "$folder")" 2>/dev/null || true
done
echo "uninstall: pynet's service, its units with their settings, $home, $command and its state in $state are gone"
