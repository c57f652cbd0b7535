#!/bin/sh
# Runs the tests that need no lab and no package of the machine on every Python from 3.9 to
# 3.13 that is here, except the one of .venv, which runs all tests anyway.  Says which are not
# here; fails if one of them fails.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH

here=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
found=$(tools/setup.sh pythons)
failed=''

for version in 3.9 3.10 3.11 3.12 3.13; do
    path=$(echo "$found" | sed -n "s/^$version //p")
    if [ "$version" = "$here" ]; then
        continue
    elif [ -z "$path" ]; then
        echo "Python $version: pure tests skipped, there is no such interpreter here"
        continue
    elif ! tools/setup.sh pure "$version" "$path"; then
        echo "Python $version: pure tests skipped, see the line above"
        continue
    fi
    log=.cache/pure-$version.log
    if timeout --foreground 900 ".venv-$version/bin/python" -m pytest -q -p no:cacheprovider \
        -o faulthandler_timeout=120 tests/core tests/host tests/bench tests/test_*.py >"$log" 2>&1; then
        echo "Python $version: pure tests: $(tail -n 1 "$log")"
    else
        cat "$log"
        echo "Python $version: pure tests FAILED"
        failed="$failed $version"
    fi
done
[ -z "$failed" ] || exit 1
