#!/bin/sh
# Run the tests that need no system package, some of them with a running agent, on Python 3.9 and
# 3.13, and those of the agent and the formats on the versions between, where this machine has them.
# Leave out the Python of .venv: it runs all tests.
# On Python 3.6 to 3.8 run the single file, with the tests of announcements, hints and conflicts on
# 3.6 and some of them on the others.  The Python of .venv runs these tests.  Those of the core and
# the formats run on these versions themselves: old_tests.py.
# Run two at a time; print how each ended and which are missing; fail if one failed.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH

TESTS='tests/wire tests/guest tests/hypervisor tests/config tests/runtime tests/render tests/cli
tests/bench tests/netns/test_agent_announcements.py'

# Some of these Pythons crash without memory.  The Python of .venv runs that test.
NO_MEMORY='--ignore tests/guest/core/test_no_memory.py'
# libvirt's library is for the system's Python, and other users may not start one in /root.  A
# browser shows the same page whatever Python wrote it.
NOT_THERE='--ignore tests/hypervisor/test_monitor_child.py
--ignore tests/render/test_pages_in_browser.py
--deselect tests/cli/test_commands.py::test_command_without_permission_exits_with_77'
BETWEEN='tests/wire tests/guest tests/config tests/runtime tests/netns/test_agent_announcements.py'

FILE=$PWD/.cache/every-python.pyz
HINTS=tests/netns/test_agent_hints.py
CONFLICTS=tests/netns/test_conflict.py
COMMANDS=tests/netns/test_agent_commands.py
FILE_TESTS="tests/netns/test_agent_announcements.py
$HINTS::test_burst_hint_is_answered_after_its_frames
$HINTS::test_lease_stretches_the_interval_until_the_host_hangs_up
$CONFLICTS::test_address_claimed_by_a_rival_stays_with_the_rival
$COMMANDS::test_announce_finds_an_interface_whatever_the_locale_is"
FILE_TESTS_36="$HINTS
$CONFLICTS::test_advertisement_by_another_host_is_a_claim_only_with_override
$CONFLICTS::test_conflict_socket_with_many_addresses_hears_claims_of_the_first
$CONFLICTS::test_virtual_address_left_by_a_killed_keepalived_stays_with_the_backup
tests/netns/test_rivals.py::test_forged_claim_withholds_the_address_for_three_probes_only
$COMMANDS::test_a_bad_reload_is_refused_with_all_its_errors
$COMMANDS::test_status_and_burst_ask_the_daemon
$COMMANDS::test_the_log_says_what_started_what_changed_and_why_a_burst_was_sent"

if [ "${1:-}" = one ]; then # VERSION INTERPRETER; this script starts itself so, see below
    log=.cache/python-$2.log
    python=.venv/bin/python
    case $2 in
    3.6) tests="$FILE_TESTS $FILE_TESTS_36" ;;
    3.[78]) tests=$FILE_TESTS ;;
    3.9 | 3.13) python=.venv-$2/bin/python tests="$TESTS $(echo tests/test_*.py) $NOT_THERE $NO_MEMORY" ;;
    *) python=.venv-$2/bin/python tests="$BETWEEN $NO_MEMORY" ;;
    esac
    if [ "$python" = .venv/bin/python ]; then
        if ! "$python" tools/old_tests.py "$3" "$FILE" >"$log" 2>&1; then
            cat "$log"
            echo "Python $2: tests of the core FAILED"
            exit 1
        fi
        echo "Python $2: core: $(tail -n 1 "$log")"
        export GARP_AGENT_UNDER_TEST="$FILE" GARP_PYTHON="$3"
    fi
    # shellcheck disable=SC2086 # a list of words
    if timeout --foreground 3600 "$python" -m pytest -q -o faulthandler_timeout=120 \
        -o "cache_dir=.cache/pytest-$2" $tests >"$log" 2>&1; then
        echo "Python $2: $(tail -n 1 "$log")"
        exit
    fi
    cat "$log"
    echo "Python $2: tests FAILED"
    exit 1
fi

here=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
found=$(tools/setup.sh pythons 6)
.venv/bin/python tools/build_pyz.py -o "$FILE" >/dev/null
ready=
for version in 3.9 3.13 3.11 3.10 3.12 3.6 3.7 3.8; do # those that take longest first
    path=$(echo "$found" | sed -n "s/^$version //p")
    if [ "$version" = "$here" ]; then
        continue
    elif [ -z "$path" ]; then
        echo "Python $version: tests skipped, this machine has no such interpreter"
    elif case $version in 3.[678]) ;; *) tools/setup.sh pure "$version" "$path" ;; esac then
        ready="$ready $version $path"
    else
        echo "Python $version: tests skipped, see the message of setup above"
    fi
done

# Before they start: two that start together must not remove leftovers at the same time.
.venv/bin/python -c 'from bench import lab; lab.why_not() or lab.remove_leftovers()'
# shellcheck disable=SC2086
[ -z "$ready" ] || printf '%s\n' $ready | xargs -n 2 -P 2 tools/every-python.sh one
