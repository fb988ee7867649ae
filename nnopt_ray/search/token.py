"""Ray's token: with it a process is let in by a cluster that asks for one.

`ray start` asks for one by itself wherever the file of the token is, and that file is written when Ray is first
embedded in any program; but a client that names the cluster's address gives it only where RAY_AUTH_MODE says so, as it
should not tell it to strangers (Ray 2.60, worker.py and authentication_token_setup.py). Without it Ray's own client
knocks for 20 s and writes a line each time; and with it, to a cluster that asks for none, it starts no actor.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from nnopt_ray.errors import UserError

ASKED = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # what Ray's client asks first; its request has no fields
ANSWERS_WITHIN_S = 5.0

_switched_off: list[str] = []  # the heads for which the mode is another than it was


def settle(host: str, port: int) -> bool:
    """Have RAY_AUTH_MODE fit the cluster → whether it was changed. Raises UserError where the cluster refuses us.

    Our token is given to a head on this machine unasked: whoever has a head here can read the file. To one that asks
    for none it is not given: Ray would start no actor then ("it was cancelled before it started running"), and Ray
    itself has set the mode where it was embedded in this process before.
    """
    head, mode = f"{host}:{port}", os.environ.get("RAY_AUTH_MODE", "").lower()
    found = _asked(head, "") if port else None
    if found is None:
        return False
    if found:
        if mode == "token":
            os.environ["RAY_AUTH_MODE"] = "disabled"
            _switched_off.append(head)
        return mode == "token"
    given = _ours() if mode == "token" or (not mode and _is_this_machine(host)) else ""
    if not given:
        raise UserError(
            "it wants a token: set RAY_AUTH_MODE=token, and copy ~/.ray/auth_token of its head to this machine."
        )
    if _asked(head, given) is False:
        raise UserError("it takes another token than ours: copy ~/.ray/auth_token of its head to this machine.")
    os.environ["RAY_AUTH_MODE"] = "token"
    return mode != "token"


def restore() -> bool:
    """After the cluster: what Ray is embedded in this process next takes its token again → whether that was changed."""
    if not _switched_off:
        return False
    _switched_off.clear()
    os.environ["RAY_AUTH_MODE"] = "token"
    return True


def _ours() -> str:
    """The token of this machine's user; empty where there is none."""
    if told := os.environ.get("RAY_AUTH_TOKEN"):
        return told.strip()
    try:
        return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").read_text().strip()
    except OSError:
        return ""


def _asked(head: str, token: str) -> bool | None:
    """Whether a head takes this token, empty for none; None where that is not to be found out."""
    try:
        import grpc
    except ImportError:  # comes with ray[default]
        return None
    with grpc.insecure_channel(head) as channel:
        try:
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            channel.unary_unary(ASKED)(b"", timeout=ANSWERS_WITHIN_S, metadata=metadata)
        except grpc.RpcError as error:
            return False if error.code() == grpc.StatusCode.UNAUTHENTICATED else None
    return True


def _is_this_machine(host: str) -> bool:
    try:
        family, *_, where = socket.getaddrinfo(host, 0)[0]
        with socket.socket(family) as own:
            own.bind(where)  # no address but one of this machine can be
    except OSError:
        return False
    return True
