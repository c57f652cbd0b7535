"""Attaches channels to guests of libvirt's QEMU driver, and asks their monitors; prints JSON.

Run by test_attach.py in namespaces of its own, behind an import of ``cli`` and the definition of
SETTINGS, a text for qemu.conf.  The last argument is an empty folder.  The guests are never
unpaused, so they need no disk.
"""

# ruff: noqa: F821
# mypy: ignore-errors

import contextlib
import io
import json
import os
import socket
import sys
import threading
import time

import libvirt

from garp_agent.hypervisor.core.announce_self import announce_self
from garp_agent.hypervisor.core.exchange import Exchange
from garp_agent.hypervisor.io.libvirt_monitors import serve

FOLDER = sys.argv[-1]
URI = f"qemu:///embed?root={FOLDER}"
CHANNEL = "name='org.garp_agent.0'"
DOMAIN = """
<domain type='qemu'>
  <name>{}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{}</devices>
</domain>
"""
CONTROLLER = "<controller type='virtio-serial'/>"


def channels(*names):
    """Return of each guest whether it has the channel: running, and in its configuration."""
    found = {}
    for name in names:
        domain = CONNECTION.lookupByName(name)
        texts = (domain.XMLDesc(), domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        found[name] = [CHANNEL in text for text in texts]
    return found


def step(arguments, *names):
    """Run the command; return what it printed, and the channels afterwards."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli(["attach", *arguments.split(), "--connect", URI], "garp-hint")
        except SystemExit as end:
            status = end.code
    lines = (out.getvalue().splitlines(), err.getvalue().splitlines())
    return {"status": status, "out": lines[0], "err": lines[1], "channels": channels(*names)}


def refused_by_libvirt():
    channel = f"<channel type='unix'><target type='virtio' {CHANNEL}/></channel>"
    try:
        CONNECTION.lookupByName("bare").attachDeviceFlags(channel, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        return {"err": [str(error)]}
    return {"err": ["it was attached"]}


def exchanged(name, *exchanges):
    """Return the outcome and the replies of exchanges with the monitor of a guest."""
    folder = f"{FOLDER}/monitors"
    if not os.path.exists(folder):
        os.mkdir(folder)
        threading.Thread(target=serve, args=(URI, folder), daemon=True).start()
    while not os.path.exists(f"{folder}/{name}.qmp"):
        time.sleep(0.01)  # the test limits the time
    found = []
    for exchange in exchanges:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{folder}/{name}.qmp")
            client.sendall(exchange.outgoing)
            while (outcome := exchange.received(client.recv(4096))) is None:
                pass
        replies = exchange.replies.items()
        found.append([outcome.value, {id: reply.description for id, reply in replies}])
    return found


def serve_events():
    while True:
        libvirt.virEventRunDefaultImpl()


os.makedirs(f"{FOLDER}/etc")
with open(f"{FOLDER}/etc/qemu.conf", "w") as file:
    file.write(SETTINGS)
libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=serve_events, daemon=True).start()
CONNECTION = libvirt.open(URI)
for name, device in (("off", ""), ("on", CONTROLLER), ("other", CONTROLLER), ("bare", "")):
    domain = CONNECTION.defineXML(DOMAIN.format(name, device))
    if name != "off":
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
results = {
    "dry run": step("--all --dry-run", "off", "on", "other", "bare"),
    "libvirt without controller": refused_by_libvirt(),
    "live bare": step("--live bare", "bare"),
    "live off": step("--live off", "off"),
    "config": step("--config on", "on"),
    "live": step("--live other", "other"),
    "all": step("--all", "on", "other", "off", "bare"),
    "monitor": exchanged("on", announce_self(), Exchange({"1": b'{"execute":"stop","id":"1"}\n'})),
}
for domain in CONNECTION.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
    domain.destroy()
print(json.dumps(results), flush=True)
os._exit(0)  # without waiting for the thread that serves events
