"""Stands at the end of papermill's pipe: says which notebook is at work and passes its lines to the terminal.

It also watches the process that launched the workflow. When that one is killed outright (kill -9), nobody is left to stop the rest, so this
process ends its group: snakemake, papermill and itself. The kernel notices within a second that papermill is gone and ends too.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path


def watch(host: str, pid: int) -> None:
    """End the own process group as soon as process `pid` is gone; does nothing on another host (a cluster job)."""
    if host != socket.gethostname():
        return
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        time.sleep(0.5)


def main() -> None:
    notebook = sys.argv[1]
    every = list(json.loads(Path("private/workflow.json").read_text())["notebooks"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # papermill ends the pipe
    host, _, pid = os.environ.get("DSA_LAUNCHED_BY", "").rpartition(":")
    if pid:
        threading.Thread(target=watch, args=(host, int(pid)), daemon=True).start()
    print(f"\n[{every.index(notebook) + 1}/{len(every)}] {notebook}", flush=True)
    for line in sys.stdin:
        print(line, end="", flush=True)


if __name__ == "__main__":
    main()
