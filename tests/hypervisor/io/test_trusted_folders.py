"""Sockets in folders that others may write to, behind links, and in other namespaces."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from garp_agent.hypervisor.converse import converse
from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome
from garp_agent.hypervisor.io import trusted_folders
from garp_agent.hypervisor.io.channels import Finder
from garp_agent.wire.protocol import encode_request
from tests.hypervisor.io.searching import (
    ELSEWHERE,
    PORT,
    container,
    found,
    listening,
    without_descriptors,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# -- folders that others may write to -----------------------------------------------------------

OURS, OTHER = 0, 12345
WRITABLE = "others may write to its folder {}"
# Owner, group and mode of the folder of the socket's folder, and of the socket's folder.
FOLDERS = [
    ((OURS, OURS, 0o755), (OURS, OURS, 0o755), ""),
    ((OURS, OURS, 0o775), (OURS, OURS, 0o2775), ""),  # writable by the group root
    ((OURS, OURS, 0o1777), (OURS, OURS, 0o755), ""),  # as /tmp
    ((OURS, OTHER, 0o755), (OURS, OTHER, 0o750), ""),
    ((OURS, OURS, 0o755), (OURS, OTHER, 0o775), WRITABLE.format("{inner}")),
    ((OURS, OURS, 0o755), (OURS, OURS, 0o757), WRITABLE.format("{inner}")),
    ((OURS, OURS, 0o755), (OURS, OURS, 0o1777), WRITABLE.format("{inner}")),
    ((OURS, OURS, 0o777), (OURS, OURS, 0o755), WRITABLE.format("{outer}")),
    ((OURS, OURS, 0o1777), (OTHER, OURS, 0o755), WRITABLE.format("{outer}")),
    ((OURS, OURS, 0o755), (OTHER, OURS, 0o755), f"its folder {{inner}} belongs to user {OTHER}"),
    ((OTHER, OURS, 0o755), (OURS, OURS, 0o755), f"its folder {{outer}} belongs to user {OTHER}"),
]


def _set(folder: Path, owner: int, group: int, mode: int) -> None:
    os.chown(folder, owner, group)
    folder.chmod(mode)


@needs_root
@pytest.mark.parametrize(("outer", "inner", "reason"), FOLDERS)
def test_socket_in_a_folder_that_others_may_write_to_is_no_guest(
    short_path: Path,
    new_finder: Callable[..., Finder],
    outer: tuple[int, int, int],
    inner: tuple[int, int, int],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = short_path / "vms" / "3-web1" / PORT
    with listening(path):
        _set(path.parents[1], *outer)
        _set(path.parent, *inner)
        reason = reason.format(outer=path.parents[1], inner=path.parent)
        finder = new_finder(PORT)
        assert found(finder) == [("web1", str(path))] * (not reason)
        assert finder.refused == ({str(path): reason} if reason else {})
        # The operator can vouch for an owner and a group, not for all users; so does libvirt.
        by_all = any(mode & 0o2 for *_, mode in (outer, inner))
        refused = [str(path)] if reason and by_all else []
        named = new_finder("", [str(path)])
        assert found(named) == [(str(path), str(path))] * (not refused)
        assert list(named.refused) == refused
        monkeypatch.setattr(trusted_folders, "LIBVIRT", (str(short_path / "vms"),))
        assert bool(found(new_finder(PORT))) is not bool(refused)


@needs_root
def test_socket_behind_the_link_of_another_user_is_no_guest(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    path, public = short_path / "3-web1" / PORT, short_path / "public"
    with listening(path):
        public.mkdir()
        public.chmod(0o1777)
        (public / "4-db").symlink_to(path.parent)
        os.lchown(public / "4-db", OTHER, OTHER)
        finder = new_finder("", [f"{public}/*/{PORT}"])
        assert found(finder) == []
        # The kernel itself may not follow the link, so that nothing is there (proc_sys_fs(5)).
        is_hidden = Path("/proc/sys/fs/protected_symlinks").read_text() == "1\n"
        reason = f"others may write to its folder {public}"
        assert finder.refused == ({} if is_hidden else {f"{public}/4-db/{PORT}": reason})
        os.lchown(public / "4-db", OURS, OURS)
        assert found(finder) == [("4-db", str(path))]


def test_socket_behind_links_that_lead_nowhere_has_the_reason(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    link, inner = short_path / "link", short_path / "inner"
    (short_path / "real").mkdir()
    link.symlink_to("real/../inner")
    inner.symlink_to("real/.")
    with listening(link / "3-web1" / PORT):
        finder = new_finder(PORT)
        assert found(finder) == [("web1", f"{short_path}/real/3-web1/{PORT}")]
        inner.unlink()
        inner.symlink_to("link")
        assert found(finder) == [("web1", f"{short_path}/real/3-web1/{PORT}")]  # known by its file
        other = new_finder(PORT)
        assert found(other) == []
        reason = "Too many levels of symbolic links"
        assert other.refused == {f"{link}/3-web1/{PORT}": reason}


@needs_root
def test_guest_that_cannot_be_looked_at_stays_or_is_shown_with_the_reason(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    path = short_path / "vms" / "3-web1" / PORT
    short_path.chmod(0o755)
    with listening(path):
        path.parents[1].chmod(0o700)
        finder = new_finder(PORT)
        before = found(finder)
        os.seteuid(65534)
        try:
            assert found(finder) == before == [("web1", str(path))]
            other = new_finder(PORT)
            assert found(other) == []
        finally:
            os.seteuid(0)
        assert other.refused == {str(path): "Permission denied"}


# -- other mount namespaces ---------------------------------------------------------------------


@needs_root
def test_socket_of_another_mount_namespace_is_no_guest_under_its_name_there(
    short_path: Path,
    new_finder: Callable[..., Finder],
) -> None:
    path = short_path / "run" / "3-web1" / PORT
    (short_path / "run").mkdir()
    finder = new_finder(PORT)
    with container(short_path / "run", str(path)):
        assert found(finder) == []
        assert finder.refused == {str(path): ELSEWHERE}
        with listening(path):  # the same name here, for another guest
            assert found(finder) == [("web1", str(path))]
            assert finder.refused == {str(path): ELSEWHERE}


@needs_root
def test_socket_of_another_network_namespace_is_found_by_a_pattern_and_reached(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    """Its path through /proc is longer than an address can be."""
    run = short_path / "run"
    run.mkdir()
    path = f"{run}/real/3-web1/{'x' * (85 - len(str(short_path)) - len(PORT))}.{PORT}"
    with container(run, path, network=True) as process:
        finder = new_finder(PORT)
        assert found(finder) == []
        assert finder.refused == {}  # the kernel does not show it
        finder = new_finder(PORT, [f"/proc/*/root{run}/real/*/*.{PORT}"])
        [channel] = finder.find()
        assert channel.path == f"/proc/{process}/root{path}"
        assert len(channel.path) > 107
        exchange = Exchange({"id": encode_request("info", None, "id")})
        [result] = converse([Call(channel.path, exchange)], 0.1)
        assert result.outcome is Outcome.BUSY  # connected; the process does not accept


@needs_root
def test_guests_in_containers_are_distinct_and_have_their_own_names(
    short_path: Path, new_finder: Callable[..., Finder]
) -> None:
    run = short_path / "run"
    run.mkdir()
    web, db = f"{run}/real/3-web1/{PORT}", f"{run}/real/4-db/{PORT}"
    with container(run, web) as first, container(run, web, db) as second, listening(Path(web)):
        for folder in ("real", "link"):
            finder = new_finder(PORT, [f"/proc/*/root{run}/{folder}/*/{PORT}"])
            expected = [
                ("db", f"/proc/{second}/root{db}"),
                ("web1", f"/proc/{first}/root{web}"),
                ("web1", f"/proc/{second}/root{web}"),
                ("web1", web),
            ]
            assert sorted(found(finder)) == sorted(expected)
            assert found(finder) == found(finder)
        one = new_finder("", [f"/proc/{second}/root{run}/real/*/{PORT}"])
        assert [guest for guest, _ in found(one)] == ["3-web1", "4-db"]
        without_descriptor = sorted(found(finder))
        with without_descriptors():
            assert sorted(found(finder)) == without_descriptor
    assert found(finder) == []
