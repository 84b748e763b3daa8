"""Becomes the program that its arguments name, bound to the life of the process that started it.

``python -I -S launch.py PARENT PROGRAM ARGUMENTS...``. A script of its own, and not code between fork and exec: that
may not run Python in a process with threads.

- PR_SET_PDEATHSIG: when the thread that started this ends, however it ends, the kernel kills this.
- PR_CAPBSET_DROP of CAP_IPC_LOCK: as root, Cassandra would lock its whole heap into memory, used or not.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
CAP_IPC_LOCK = 14

if __name__ == "__main__":
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):  # the parent died before the signal was asked for
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  # the caller's own words
