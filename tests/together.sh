#!/bin/sh
# Run pytest and, from the start beside it, the tests in virtual machines, whose output is shown in the end.
# Ends with an error if one of them fails.
#
# Most tests wait for the kernel or an engine more than they compute, so there are three processes a core; the
# machines compute all the time and get what is left of it. A test that fails beside the others is run once more
# alone, and named: where it passes, the machine was too busy for it.
set -u
cd "$(dirname "$0")/.."

log=$(mktemp)
# They share the processors with pytest: what they wait for may take three times as long.
PYNET_PATIENCE=3 nice -n 10 .venv/bin/python -m tests.vm >"$log" 2>&1 &
machines=$!
trap 'kill "$machines" 2>/dev/null; wait "$machines"; cat "$log"; rm -f "$log"; exit 130' INT TERM

.venv/bin/pytest -n $(($(nproc) * 3)) --dist loadgroup
code=$?
if [ "$code" = 1 ]; then
    echo "tests: what failed is run once more, alone" >&2
    .venv/bin/pytest -v --last-failed --last-failed-no-failures none
    code=$?
fi
wait "$machines"
machines_code=$?
cat "$log"
rm -f "$log"
[ "$code" = 0 ] || echo "tests: pytest ended with $code; its output is above that of the virtual machines" >&2
[ "$machines_code" = 0 ] || echo "tests: the tests in virtual machines ended with $machines_code" >&2
[ "$code" = 0 ] && [ "$machines_code" = 0 ]
