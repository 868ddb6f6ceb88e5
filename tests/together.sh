#!/bin/sh
# Run pytest and, from the start beside it, the tests in virtual machines, whose output is shown in the end.
# Ends with an error if one of them fails.
#
# Most tests wait for the kernel or an engine more than they compute, so there are three processes a core; the
# machines compute all the time and get what is left of it. A test that fails beside the others is run once more
# alone, and named: where it passes, the machine was too busy for it.
set -u
cd "$(dirname "$0")/.."

log=$(mktemp) failed=$(mktemp)
# They share the processors: what is waited for may take twice as long, and in the machines three times.
PYNET_PATIENCE=3 nice -n 10 .venv/bin/python -m tests.vm >"$log" 2>&1 &
machines=$!
trap 'kill "$machines" 2>/dev/null; wait "$machines"; cat "$log"; rm -f "$log" "$failed"; exit 130' INT TERM

.venv/bin/python -m tests.lab.prebuild
PYNET_PATIENCE=2 PYNET_FAILED=$failed .venv/bin/pytest -n $(($(nproc) * 3)) --dist loadgroup
code=$?
if [ "$code" = 1 ] && [ -s "$failed" ] && [ "$(wc -l <"$failed")" -le 10 ]; then
    echo "tests: these failed beside others, and are run once more alone:" >&2
    cat "$failed" >&2
    .venv/bin/pytest -v "@$failed"
    code=$?
fi
wait "$machines"
machines_code=$?
cat "$log"
rm -f "$log" "$failed"
[ "$code" = 0 ] || echo "tests: pytest ended with $code; its output is above that of the virtual machines" >&2
[ "$machines_code" = 0 ] || echo "tests: the tests in virtual machines ended with $machines_code" >&2
[ "$code" = 0 ] && [ "$machines_code" = 0 ]
