"""Source that tests run inside guests, in the control server's namespace."""

from __future__ import annotations

# Opens a socket which hears RTM_NEWLINK; ``events()`` then gives (interface, IFLA_EVENT).
LINK_EVENTS = """
import socket, struct
heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
heard.bind((0, 1))
heard.settimeout(30)

def event_of(message):
    index, = struct.unpack_from("i", message, 20)
    at = 32
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("HH", message, at)
        if kind & 0x3fff == 44:
            return index, struct.unpack_from("I", message, at + 4)[0]
        at += (max(length, 4) + 3) & ~3
    return index, 0

def wait_for_event(number):
    while True:
        data = heard.recv(65536)
        while data:
            length, kind = struct.unpack_from("IH", data)
            index, event = event_of(data[:length])
            if kind == 16 and event == number:
                return socket.if_indextoname(index)
            data = data[(length + 3) & ~3:]
"""

# What a port looks like to a program that has it open.
PORT = """
import os, select

def open_port(name):
    folder = "/sys/class/virtio-ports"
    for node in os.listdir(folder):
        with open(f"{folder}/{node}/name") as file:
            if file.read().strip() == name:
                return os.open(f"/dev/{node}", os.O_RDWR | os.O_NONBLOCK)
    raise FileNotFoundError(name)

BITS = {1: "IN", 4: "OUT", 8: "ERR", 16: "HUP"}

def poll_bits():
    poller = select.poll()
    poller.register(port, select.POLLIN | select.POLLOUT)
    bits = dict(poller.poll(0)).get(port, 0)
    return [name for bit, name in BITS.items() if bits & bit]

def attempt(call, *arguments):
    try:
        got = call(*arguments)
        return got.decode() if isinstance(got, bytes) else got
    except OSError as error:
        return type(error).__name__ if error.errno == 11 else os.strerror(error.errno)
"""
