"""Hosts on one machine: network namespaces on a bridge, each with a cable that can be cut. Takes root and iproute2."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

# Of the benchmark range, which no network routes; another one for every process that makes hosts.
NETWORK = f"198.18.{os.getpid() % 250}"


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


@dataclass(frozen=True)
class Host:
    """A network namespace with one cable to the bridge."""

    name: str
    address: str

    @property
    def cable(self) -> str:
        return f"{self.name}-c"

    def command(self, *command: str) -> list[str]:
        """Return a command that runs there."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut(self) -> None:
        """Pull its cable: nothing is told to anybody."""
        ip("link", "set", self.cable, "down")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make so many hosts, and a bridge by which they and this machine reach each other; skip where that cannot be."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces take root and iproute2")
    tag = f"vq{os.getpid() % 100_000}"
    made = [Host(f"{tag}{place}", f"{NETWORK}.{place + 10}") for place in range(count)]
    try:
        ip("link", "add", tag, "type", "bridge")
        ip("address", "add", f"{NETWORK}.1/24", "dev", tag)
        ip("link", "set", tag, "up")
        for host in made:
            ip("netns", "add", host.name)
            ip(
                "link",
                "add",
                host.cable,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                host.name,
            )
            ip("link", "set", host.cable, "master", tag, "up")
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            ip("-n", host.name, "link", "set", "eth0", "up")
            ip("-n", host.name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        clear(made, tag)
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    try:
        yield made
    finally:
        clear(made, tag)


def clear(made: list[Host], bridge: str) -> None:
    for host in made:
        ip("netns", "delete", host.name, check=False)
        ip("link", "delete", host.cable, check=False)
    ip("link", "delete", bridge, check=False)
