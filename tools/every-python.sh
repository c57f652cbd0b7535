#!/bin/sh
# Run the tests that need no system package, some of them with a running agent, on each Python
# from 3.9 to 3.13 that is on this machine.  Leave out the Python of .venv: it runs all tests.
# Run two at a time; print how each ended and which are missing; fail if one failed.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH

TESTS='tests/wire tests/guest tests/hypervisor tests/config tests/runtime tests/render tests/cli
tests/bench tests/netns/test_agent_announcements.py'

if [ "${1:-}" = one ]; then # VERSION; this script starts itself so, see below
    log=.cache/python-$2.log
    # shellcheck disable=SC2086 # a list of words
    if timeout --foreground 3600 ".venv-$2/bin/python" -m pytest -q -o faulthandler_timeout=120 \
        -o "cache_dir=.cache/pytest-$2" $TESTS tests/test_*.py >"$log" 2>&1; then
        echo "Python $2: $(tail -n 1 "$log")"
        exit
    fi
    cat "$log"
    echo "Python $2: tests FAILED"
    exit 1
fi

here=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
found=$(tools/setup.sh pythons)
ready=
for version in 3.9 3.10 3.11 3.12 3.13; do
    path=$(echo "$found" | sed -n "s/^$version //p")
    if [ "$version" = "$here" ]; then
        continue
    elif [ -z "$path" ]; then
        echo "Python $version: tests skipped, this machine has no such interpreter"
    elif tools/setup.sh pure "$version" "$path"; then
        ready="$ready $version"
    else
        echo "Python $version: tests skipped, see the message of setup above"
    fi
done

# Before they start: two that start together must not remove leftovers at the same time.
.venv/bin/python -c 'from bench import lab; lab.why_not() or lab.remove_leftovers()'
# shellcheck disable=SC2086
[ -z "$ready" ] || printf '%s\n' $ready | xargs -n 1 -P 2 tools/every-python.sh one
