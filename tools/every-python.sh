#!/bin/sh
# Runs the tests that need no package of the machine, some with a running agent among them, on
# every Python from 3.9 to 3.13 that is here, except the one of .venv, which runs all tests
# anyway.  Two at a time; says how each ended, and which are not here; fails if one failed.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH

TESTS='tests/wire tests/guest tests/hypervisor tests/config tests/runtime tests/render tests/cli tests/bench tests/netns/test_agent_announcements.py'

if [ "${1:-}" = one ]; then # VERSION; as started below
    log=.cache/python-$2.log
    # shellcheck disable=SC2086 # a list of words
    if tools/again.sh timeout --foreground 900 ".venv-$2/bin/python" -m pytest -q \
        -o "cache_dir=.cache/pytest-$2" -o faulthandler_timeout=120 $TESTS tests/test_*.py \
        >"$log" 2>&1; then
        echo good >"$log.ended"
    fi
    exit
fi

here=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
found=$(tools/setup.sh pythons)
mkdir -p .cache
rm -f .cache/python-*
ready=''
for version in 3.9 3.10 3.11 3.12 3.13; do
    path=$(echo "$found" | sed -n "s/^$version //p")
    if [ "$version" = "$here" ]; then
        continue
    elif [ -z "$path" ]; then
        echo 'skipped, there is no such interpreter here' >".cache/python-$version.skipped"
    elif ! tools/setup.sh pure "$version" "$path"; then
        echo 'skipped, see its line above' >".cache/python-$version.skipped"
    else
        ready="$ready $version"
    fi
done

# Once and for all: two that start together must not clean up at the same time.
.venv/bin/python -c 'from bench import lab; lab.why_not() or lab.remove_leftovers()'
# shellcheck disable=SC2086
[ -z "$ready" ] || printf '%s\n' $ready | xargs -n 1 -P 2 tools/every-python.sh one

failed=''
for version in 3.9 3.10 3.11 3.12 3.13; do
    log=.cache/python-$version.log
    if [ -e ".cache/python-$version.skipped" ]; then
        echo "Python $version: tests $(cat ".cache/python-$version.skipped")"
    elif [ -e "$log.ended" ]; then
        again=''
        ! grep -q '^FAILED, see above' "$log" || again="$(grep -E '^(FAILED|ERROR) tests' "$log" || true); once more: "
        echo "Python $version: $again$(tail -n 1 "$log")"
    elif [ "$version" != "$here" ]; then
        cat "$log" || true
        echo "Python $version: tests FAILED"
        failed="$failed $version"
    fi
done
[ -z "$failed" ]
