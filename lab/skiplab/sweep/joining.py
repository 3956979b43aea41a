"""Joins a Ray cluster, or says in one line why it cannot be joined; Ray is imported here first."""

from __future__ import annotations

import logging
import os
import re
import socket

CONNECT_S = 5.0
ADDRESS = re.compile(r"ray://(?P<host>[^/\s:]+|\[[^/\s]+\]):(?P<port>\d+)")


def check(address: str, device: str, gpu: str | None) -> None:
    if address != "auto" and not ADDRESS.fullmatch(address):
        raise ValueError(f"cluster: got {address!r}; allowed are auto and ray://host:10001")
    if device not in ("cuda", "cpu"):
        raise ValueError(f"device: got {device!r} of a cluster, where Ray chooses which; allowed are cuda and cpu")
    if gpu is not None and device != "cuda":
        raise ValueError(f"gpu: got {gpu!r} with the device {device}; it chooses among GPUs")


def join(address: str) -> bool:
    """Join a cluster; False where this process had joined it before, as a notebook may."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("cluster: Ray is not installed: pip install 'skiplab[cluster]'") from error
    if ray.is_initialized():
        if address == "auto":
            return False
        raise ValueError(f"cluster: got {address}, and this process has joined one already; auto is that one")
    told = "is Ray started there?"
    try:
        _knock(_found() if address == "auto" else address)
        told = "where it asks for a token, set RAY_AUTH_MODE=token here"
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds: no cluster, another version, no token
        raise ConnectionError(f"cluster: {address} cannot be joined: {reason(error)}; {told}") from error
    return True


def _found() -> str:
    """The address behind `auto`: RAY_ADDRESS, or what Ray started last on this machine; `auto` if Ray alone knows."""
    named = os.environ.get("RAY_ADDRESS", "")
    if named.startswith("ray://"):
        return named
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:  # in another version of Ray
        return "auto"
    return canonicalize_bootstrap_address("auto") or "auto"


def _knock(address: str) -> None:
    """ConnectionError for an address where nobody answers: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(f"nobody answers at {address}: {error}") from error


def reason(error: Exception) -> str:
    """What Ray says, in one line: the error of the worker's own code, else what happened to the worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    has_frames = any(line.startswith(("Traceback", "File ")) for line in lines)
    return lines[-1] if has_frames else lines[0]
