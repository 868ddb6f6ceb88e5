#!/bin/sh
# Run all tests: build what they run on, then pytest, then the virtual machines. Ends with an error if one fails.
#
# A test that fails beside the others is run once more alone, and named: where it passes, the machine was too busy.
set -u
cd "$(dirname "$0")/.."

failed=$(mktemp)
trap 'rm -f "$failed"' EXIT

.venv/bin/python -m tests.lab.prebuild
# Twice a core, since most tests wait for the kernel or an engine more than they compute.
PYNET_PATIENCE=2 PYNET_FAILED=$failed .venv/bin/pytest -n $(($(nproc) * 2)) --dist loadgroup
code=$?
if [ "$code" = 1 ] && [ -s "$failed" ] && [ "$(wc -l <"$failed")" -le 10 ]; then
    echo "tests: these failed beside others, and are run once more alone:" >&2
    cat "$failed" >&2
    .venv/bin/pytest -v "@$failed"
    code=$?
fi
# After the rest: they compute all the time, without hardware to help.
.venv/bin/python -m tests.vm || { echo "tests: the tests in virtual machines ended with $?" >&2; exit 1; }
[ "$code" = 0 ] || echo "tests: pytest ended with $code; its output is above that of the virtual machines" >&2
exit "$code"
