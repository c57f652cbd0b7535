"""What the tests build once and keep: folders under ``.cache/vm``, named by their recipe's hash.

After the first build no network is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("GARP_VM_CACHE", ROOT / ".cache" / "vm"))
BUILDERS = ("cache", "debian", "kernels", "images")  # part of every recipe


@contextmanager
def locked() -> Iterator[None]:
    """Exclude all other processes from the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def built(
    name: str, recipe: Sequence[str], build: Callable[[Path], None], *, keep: int = 0
) -> Path:
    """Return the folder that ``build`` fills, once for each recipe.

    Of the folders for earlier recipes ``keep`` stay.
    """
    code = [Path(__file__).with_name(f"{builder}.py").read_text() for builder in BUILDERS]
    digest = hashlib.sha256("\0".join([*recipe, *code]).encode()).hexdigest()[:16]
    place = CACHE / f"{name}-{digest}"
    if place.exists():
        return place
    with locked():
        if not place.exists():
            earlier = sorted(CACHE.glob(f"{name}-" + "?" * 16), key=os.path.getmtime)
            for old in earlier[: len(earlier) - keep]:
                shutil.rmtree(old)
            unfinished = CACHE / f"unfinished-{name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(place)
    return place
