"""How much of this machine's memory is in use."""

from __future__ import annotations

MEMINFO = "/proc/meminfo"


def used_percent(path: str = MEMINFO) -> float:
    """The share of RAM that could not be had without swapping, 0 to 100; 0 where the kernel does not say."""
    try:
        with open(path, "rb") as file:
            lines = file.read(4096).split(b"\n")
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(b":") for line in lines[:-1]) if rest.split()}
        return 100 * (1 - kilobytes[b"MemAvailable"] / kilobytes[b"MemTotal"])
    except (OSError, KeyError, ValueError, ZeroDivisionError):
        return 0.0
