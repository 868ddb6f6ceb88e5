#!/bin/sh
# Take away what install.sh has put on this host, and pynet's state: `make uninstall`.
set -eu
verb=uninstall
cd "$(dirname "$0")/.."
. packaging/common.sh

refuse_elsewhere
[ -e "$units/pynet.service" ] || refuse "pynet is not installed as a service here"
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
rm -rf "$home" "$state" "$command" "$manual" "$bash_completion" "$zsh_completion" "$fish_completion"
# Folders that only such files make, if they are empty.
for file in "$manual" "$bash_completion" "$zsh_completion" "$fish_completion"; do
    folder=$(dirname "$file")
    rmdir "$folder" 2>/dev/null && [ "$file" != "$manual" ] && rmdir "$(dirname "$folder")" 2>/dev/null || true
done
echo "uninstall: pynet's service, its units with their settings, $home, $command and its state in $state are gone"
