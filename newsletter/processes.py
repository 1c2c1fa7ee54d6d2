"""Which process holds a batch, and whether it is certain that it has ended."""

import os
import socket
from pathlib import Path


def this_process() -> str:
    """A name for this process that no other has or will have: machine, process id, and when it started."""
    return f"{_machine()}/{os.getpid()}/{_started(os.getpid())}"


def is_gone(owner: str) -> bool:
    """True only where it is certain that the process of that name has ended. Of other machines nothing is certain."""
    machine, _, rest = owner.rpartition("/")[0].rpartition("/")
    started = owner.rpartition("/")[2]
    if machine != _machine() or not rest.isdigit() or started == "?":
        return False
    return _started(int(rest)) != started


def _machine() -> str:
    """Host, boot and process-id space: a number means the same process only where all three are the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        space = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        boot = space = "?"
    return f"{socket.gethostname()}/{boot}.{space}"


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; "gone" where there is none, "?" where nobody can tell."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "gone" if Path("/proc/self/stat").exists() else "?"
    except OSError:
        return "?"
    fields = status.rpartition(")")[2].split()
    return "gone" if fields[0] in {"Z", "X"} else fields[19]  # proc_pid_stat(5): state is field 3, starttime 22
