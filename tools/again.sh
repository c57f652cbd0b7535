#!/bin/sh
# tools/again.sh PYTEST...: runs this command; with GARP_AGENT_AGAIN=1, what failed is run once
# more.  Both runs say what they found: a second chance hides nothing.
set -u
"$@"
status=$?
if [ "$status" = 1 ] && [ "${GARP_AGENT_AGAIN:-0}" = 1 ]; then
    echo 'FAILED, see above; once more:'
    "$@" --last-failed --last-failed-no-failures=none
    status=$?
fi
exit "$status"
