"""Runs a module, or a file of this folder, as the main program in a process that the kernel ends when the one that started it is gone.

usage: tied.py PARENT_PID MODULE_OR_FILE [ARGUMENT...]"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1

parent = int(sys.argv[1])
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != parent:  # It died before the kernel was told.
    os._exit(1)
del sys.path[0]  # This file's folder: Python puts it there, the module does not expect it.
sys.argv = sys.argv[2:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
