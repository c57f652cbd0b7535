"""The OpenRC script, installed as its page says, under OpenRC in a chroot.  `make test-packages`"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.packaging.rootfs import Chroot
from tests.packaging.support import CONTRIB
from tests.packaging.test_docs import blocks

# The state that a booted OpenRC keeps.
BOOTED = """
for folder in exclusive started starting stopping inactive wasinactive failed daemons options; do
    mkdir -p /run/openrc/$folder
done
touch /run/openrc/softlevel
"""


def test_openrc_starts_supervises_and_stops_the_agent(pyz: Path) -> None:
    put_there, take_away = blocks("rc-local", "sh openrc")
    with Chroot("openrc") as system:
        (system.top / "usr/sbin/policy-rc.d").unlink()
        shutil.copytree(CONTRIB, system.top / "root/contrib")
        shutil.copy(pyz, system.top / "root/garp-agent.pyz")
        with (system.top / "etc/rc.conf").open("a") as settings:
            settings.write('\nrc_sys="docker"\n')  # a container: no hardware services
        printed = system.shell(
            "cd /root\n"
            + put_there
            + BOOTED
            + """
            alone="rc-service --nodeps garp-agent"
            agent() { for each in /proc/[0-9]*; do
                case $(tr '\\0' ' ' <$each/cmdline 2>/dev/null) in
                python3*garp-agent\\ run*) basename $each ;;
                esac
            done; }
            $alone start
            until garp-agent status >/dev/null 2>&1; do sleep 0.2; done
            $alone status
            $alone burst
            first=$(agent)
            $alone reload
            kill -9 $first
            until next=$(agent); [ -n "$next" ] && [ "$next" != "$first" ]; do sleep 0.2; done
            echo came back
            $alone stop
            until [ -z "$(agent)" ]; do sleep 0.2; done
            echo 'interval: never' >/tmp/bad.yaml
            mkdir -p /etc/garp-agent; cp /tmp/bad.yaml /etc/garp-agent/config.yaml
            if $alone start; then exit 1; fi
            rm -r /etc/garp-agent
            echo refused
            """
            + take_away
        )
        assert [*(system.top / "etc").rglob("*garp-agent*")] == []
    assert re.search(r"^ +garp-agent \| +default", printed, re.MULTILINE)
    assert "status: started" in printed
    assert "frames sent" in printed
    assert "came back" in printed
    assert "refused" in printed
