"""`make screenshots`: what the commands print, as pictures for docs/pictures.

Each picture shows a real run.  `garp-agent doctor` and `garp-hint list` run here, with agents in
private networks, on a terminal of 80 columns; rich makes an SVG of what they print.  The drill runs
on a hypervisor in QEMU with a real bond; chromium makes a PNG of its page.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI as THEME
from rich.text import Text

from bench.lab import ROOT, Lab
from tests.vm.agent import Agent
from tests.vm.receiver import wait_for
from tests.vm.testbed import GARP_HINT, HintWatcher, Testbed

PICTURES = ROOT / "docs" / "pictures"
COLUMNS, LINES = 80, 50
PORT = "org.garp_agent.0"
FOLDER = Path("/run/vms")  # made and removed: its name is short, and pictures show it
AGENT = (sys.executable, "-m", "garp_agent")
HINT = (sys.executable, "-m", "garp_agent.hypervisor")
GUESTS = {"web1": 2, "web2": 1, "mail": 4}  # name, and how many addresses it has
NETWORK = "192.0.2"
PAGE_WIDTH, PAGE_HEIGHT = 860, 560
# rich's own, without the fonts that it would fetch from the network.
SVG = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
text {{ white-space: pre }}
.{unique_id}-matrix, .{unique_id}-title {{ font: {char_height}px monospace }}
{styles}
</style>
<defs>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def printed(lab: Lab, role: str, *command: str) -> str:
    """Return what a command prints on a terminal, with its colours."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "agent"), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = lab.start(role, [*command], stdout=its, stderr=its, env=environment)
    os.close(its)
    text = b""
    with open(ours, "rb", buffering=0) as terminal, suppress(OSError):  # EIO: it has ended
        while data := terminal.read(4096):
            text += data
    process.wait()
    return text.decode().replace("\r\n", "\n")


def save_terminal(name: str, command: str, text: str) -> None:
    """Write docs/pictures/NAME.svg: the command and what it printed."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip()))
    svg = console.export_svg(title=f"# {command}", theme=THEME, code_format=SVG, unique_id=name)
    (PICTURES / f"{name}.svg").write_text(svg)


class Channel:
    """A virtio-serial channel as QEMU makes it: the host's end is a listening socket."""

    def __init__(self, folder: Path, name: str) -> None:
        self.guest_end = folder / name / "guest"
        self.host_end = folder / name / PORT
        self.host_end.parent.mkdir()
        listeners = []
        for path in (self.guest_end, self.host_end):
            listeners.append(socket.socket(socket.AF_UNIX))
            listeners[-1].bind(str(path))
            listeners[-1].listen()
        threading.Thread(target=self._carry, args=listeners, daemon=True).start()

    def _carry(self, for_guest: socket.socket, for_host: socket.socket) -> None:
        guest, _ = for_guest.accept()
        while True:
            host, _ = for_host.accept()
            with host:
                ends = {host: guest, guest: host}
                while True:
                    for end in select.select([*ends], [], [])[0]:
                        if data := end.recv(4096):
                            ends[end].sendall(data)
                        else:
                            break
                    else:
                        continue
                    break


class Site(Lab):
    """A hypervisor whose bridge has a port for each guest, and an uplink to a host outside."""

    roles = ("host", "outside", *GUESTS)

    def build(self) -> None:
        ports = [f"vnet{number}" for number in range(len(GUESTS))]
        pairs = [("host", port, name, "eth0") for port, name in zip(ports, GUESTS)]
        self.wire(*pairs, ("host", "eno1", "outside", "eth0"))
        self.ip("host", *(f"link set {port} up" for port in (*ports, "eno1")))
        self.bridge("host", *ports, "eno1")
        for at, (name, count) in enumerate(GUESTS.items(), 1):
            addresses = [f"{NETWORK}.{10 * at + more}/24" for more in range(count)]
            self.host(name, "eth0", f"52:54:00:00:53:{at:02x}", *addresses)
        # A clone of the first guest has its second address.
        self.host("outside", "eth0", "52:54:00:00:53:99", f"{NETWORK}.11/24")
        self.wait_until_up(*self.roles)


def draw_terminals(folder: Path, stack: ExitStack) -> None:
    """Draw `garp-agent doctor` of one guest, and `garp-hint list` of its host."""
    lab = stack.enter_context(Site())
    for name in reversed(GUESTS):
        with lab.entered("host"):
            channel = Channel(folder, name)
        control, configuration = folder / name / "control", folder / name / "config.yaml"
        configuration.write_text(f"hint_port: {channel.guest_end}\n")
        options = ("-c", str(configuration), "--control-socket", str(control))
        lab.start_agent(name, *options, stderr=subprocess.DEVNULL)
        wait_for(control.exists, "the agent's control socket")
    save_terminal("list", "garp-hint list", printed(lab, "host", *HINT, "list"))
    shown = printed(lab, "web1", *AGENT, "doctor", *options)
    save_terminal("doctor", "garp-agent doctor", shown)


def draw_drill(folder: Path) -> None:
    """Draw the page of a drill on a real bond."""
    page, picture = folder / "drill.html", folder / "drill.png"
    with Testbed() as testbed, Agent(testbed.guest), HintWatcher(testbed.hypervisor):
        testbed.guest_sends()
        testbed.hypervisor.run(*GARP_HINT, "drill", "--yes", "--html", "/tmp/drill.html")
        page.write_text(testbed.hypervisor.read("/tmp/drill.html"))
    save_page(page, picture)
    shutil.copy(picture, PICTURES)


def save_page(page: Path, picture: Path) -> None:
    """Write what a browser shows of a page."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    size = f"--window-size={PAGE_WIDTH},{PAGE_HEIGHT}"
    command = ["chromium", *options, size, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> None:
    """Draw "terminals", "drill" or both, as named; /run/vms must not exist yet."""
    wanted = sys.argv[1:] or ["terminals", "drill"]
    PICTURES.mkdir(exist_ok=True)
    if "terminals" in wanted:
        FOLDER.mkdir()
        try:
            with ExitStack() as stack:
                draw_terminals(FOLDER, stack)
        finally:
            shutil.rmtree(FOLDER)
    if "drill" in wanted:
        with tempfile.TemporaryDirectory(prefix="garp-screenshots-") as folder:
            draw_drill(Path(folder))


if __name__ == "__main__":
    main()
