"""The units that write metrics for node_exporter, in a running Debian with both packages."""

from __future__ import annotations

from pathlib import Path

from tests.packaging.container import PATIENCE, Container
from tests.vm.receiver import wait_for

FOLDER = "/var/lib/prometheus/node-exporter"


def test_timers_of_both_packages_write_metrics_and_do_not_run_as_root(
    debs: dict[str, Path],
) -> None:
    names = ("garp-agent", "garp-hint")
    packages = {f"/payload/{debs[name].name}": debs[name] for name in names}
    with Container("ssh", packages) as system:
        system.run("dpkg", "--install", *packages)
        system.run("install", "-d", "-o", "daemon", FOLDER)
        for name in names:
            metrics = system.top / FOLDER.lstrip("/") / f"{name}.prom"
            system.run("systemctl", "start", f"{name}-textfile.timer")
            wait_for(metrics.exists, f"the metrics of {name}", PATIENCE)
            assert f"{name.replace('-', '_')}_up 1\n" in metrics.read_text()
            assert (metrics.stat().st_mode & 0o777, metrics.stat().st_uid == 0) == (0o644, False)
