"""A Ray cluster whose nodes have network namespaces of their own, so that a node can be cut off and come back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ray_example import below, send, train

NET = "10.213.0"
OPEN = {**os.environ, "RAY_AUTH_MODE": "disabled"}  # `ray start` takes the token that may lie here


def possible() -> bool:
    """Whether namespaces, bridges and mounts may be made here."""
    if not Path("/proc").exists() or os.getuid() or any(shutil.which(tool) is None for tool in ("ip", "mount")):
        return False
    name = f"nn{os.getpid()}t"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    mounts = made and subprocess.run(
        ["ip", "netns", "exec", name, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return bool(mounts) and mounts.returncode == 0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _free_port() -> int:
    with socket.create_server(("", 0)) as found:
        return int(found.getsockname()[1])


ALIVE = """
import sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False)
deadline = time.monotonic() + 60
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    assert time.monotonic() < deadline, f"{sys.argv[2]} nodes did not come up: {ray.nodes()}"
    time.sleep(0.2)
"""


class NetCluster:
    """A head without CPUs on this machine, and nodes of one CPU, each as a machine of its own on a network.

    The nodes share all folders but Ray's own and those that are hidden from them.
    """

    def __init__(self, nodes: int, hidden: dict[int, Path] | None = None) -> None:
        """hidden: node → a folder of which it sees an empty one of its own instead."""
        self._name = f"nn{os.getpid()}"
        self._hidden = hidden or {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.address = f"{NET}.1:{_free_port()}"
        try:
            _ip("link", "add", self._name, "type", "bridge")
            _ip("addr", "add", f"{NET}.1/24", "dev", self._name)
            _ip("link", "set", self._name, "up")
            words = ["--head", f"--port={self.address.rpartition(':')[2]}", "--num-cpus=0"]
            self._head = self._ray(f"{NET}.1", *words, "--include-dashboard=false")
            self._await_head()
            for number in range(nodes):
                self._add(number)
            self._await_nodes()
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> NetCluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def _ray(self, ip: str, *words: str, before: str = "", within: list[str] | None = None) -> subprocess.Popen[bytes]:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={ip}", "--block", *words]
        shell = [*(within or []), "sh", "-c", f'{before} exec "$@"', "sh", *ray]
        environment = {**OPEN, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        return subprocess.Popen(
            shell, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def _add(self, number: int) -> None:
        space, own, theirs = f"{self._name}n{number}", f"{self._name}v{number}", f"{self._name}w{number}"
        _ip("netns", "add", space)
        _ip("link", "add", own, "type", "veth", "peer", "name", theirs)
        _ip("link", "set", own, "master", self._name)
        _ip("link", "set", own, "up")
        _ip("link", "set", theirs, "netns", space)
        _ip("-n", space, "addr", "add", f"{NET}.{2 + number}/24", "dev", theirs)
        _ip("-n", space, "link", "set", theirs, "up")
        _ip("-n", space, "link", "set", "lo", "up")
        Path("/tmp/ray").mkdir(exist_ok=True)
        before = "mount -t tmpfs none /tmp/ray;"  # its sockets would be found by the driver
        if number in self._hidden:
            before += f" mount -t tmpfs none '{self._hidden[number]}';"
        ip, within = f"{NET}.{2 + number}", ["ip", "netns", "exec", space]
        self._processes[number] = self._ray(
            ip, f"--address={self.address}", "--num-cpus=1", before=before, within=within
        )

    def _await_head(self) -> None:
        host, _, port = self.address.rpartition(":")
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                socket.create_connection((host, int(port)), timeout=1.0).close()
                return
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(0.2)

    def _await_nodes(self) -> None:
        count = subprocess.run(
            [sys.executable, "-c", ALIVE, self.address, str(1 + len(self._processes))],
            capture_output=True, text=True, check=False, timeout=90, env=OPEN,
        )  # fmt: skip
        assert count.returncode == 0, count.stderr

    def cut(self, node: int) -> None:
        """Nothing gets to the node or from it."""
        _ip("link", "set", f"{self._name}v{node}", "down")

    def mend(self, node: int) -> None:
        _ip("link", "set", f"{self._name}v{node}", "up")

    def workers(self, node: int) -> set[int]:
        return train(below(self._processes[node].pid))

    def kill(self) -> None:
        for process in [*self._processes.values(), *([self._head] if hasattr(self, "_head") else [])]:
            send(below(process.pid) | {process.pid}, signal.SIGKILL)
            process.wait()
        for number in self._processes:
            subprocess.run(["ip", "netns", "del", f"{self._name}n{number}"], check=False, capture_output=True)
            subprocess.run(["ip", "link", "del", f"{self._name}v{number}"], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self._name], check=False, capture_output=True)
