#!/bin/sh
# Make what is published of the last commit: wheel and source archive, and the managed plugin where that was built.
#
# usage: dist.sh PYTHON FOLDER [PLUGIN ARCHITECTURE]     PYTHON has the dependency group `release`; PLUGIN is a folder
#                                                        with config.json and rootfs
#
# The same commit gives the same bytes.
set -eu
python=$(realpath -s "$1")
mkdir -p "$2"
folder=$(realpath "$2") plugin=${3:+$(realpath "$3")} architecture=${4-}
cd "$(dirname "$0")/.."
umask 022
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# pack ARCHIVE FOLDER NAME...: with nothing in it of the machine or the hour.
pack() {
    archive=$1 within=$2
    shift 2
    tar -C "$within" --sort=name --format=posix --pax-option=delete=atime,delete=ctime --mtime="@$SOURCE_DATE_EPOCH" \
        --owner=0 --group=0 --numeric-owner -c "$@" | gzip -n -9 >"$folder/$archive"
    echo "dist: $folder/$archive"
}

git archive HEAD | tar --no-same-permissions -x -C "$scratch"
version=$(cd "$scratch" && "$python" -c 'import pynetdriver; print(pynetdriver.__version__)')
"$python" -m build --no-isolation --outdir "$scratch/made" "$scratch" >"$scratch/log" 2>&1 || {
    cat "$scratch/log" >&2
    exit 1
}
cp "$scratch/made/pynet_driver-$version-py3-none-any.whl" "$folder"
echo "dist: $folder/pynet_driver-$version-py3-none-any.whl"
tar --no-same-permissions -C "$scratch/made" -xf "$scratch/made/pynet_driver-$version.tar.gz"
pack "pynet_driver-$version.tar.gz" "$scratch/made" "pynet_driver-$version"
[ -z "$plugin" ] || pack "pynet-plugin-$version-$architecture.tar.gz" "$plugin" config.json rootfs
