#!/bin/sh
# Run pytest and, from the start beside it, the tests in virtual machines, whose output is shown in the end.
# Ends with an error if one of them fails.
set -u
cd "$(dirname "$0")/.."

log=$(mktemp)
# They share the processors with pytest: what they wait for may take twice as long.
PYNET_PATIENCE=2 .venv/bin/python -m tests.vm >"$log" 2>&1 &
machines=$!
trap 'kill "$machines" 2>/dev/null; wait "$machines"; cat "$log"; rm -f "$log"; exit 130' INT TERM

.venv/bin/pytest -n 3 --dist loadgroup
code=$?
wait "$machines"
machines_code=$?
cat "$log"
rm -f "$log"
[ "$code" = 0 ] || echo "tests: pytest ended with $code; its output is above that of the virtual machines" >&2
[ "$machines_code" = 0 ] || echo "tests: the tests in virtual machines ended with $machines_code" >&2
[ "$code" = 0 ] && [ "$machines_code" = 0 ]
