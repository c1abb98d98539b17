"""Serving a study and writing its files: `make readers` and `make readers-export` call this.

python -m dsa_lib.rating serve --run phantom --raters NR1:NR,NS1:NS
python -m dsa_lib.rating export --run phantom --to folder
"""

import argparse
import importlib.util
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from dsa_lib.rating import answers
from dsa_lib.rating.page import VARIABLE
from dsa_lib.rating.study import Asked, begin, location
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import PROJECT, Workspace

TEMPLATES = Path(__file__).with_name("jupyter")  # laid out as a folder of JUPYTER_PATH
PORT = 8866
IDLE_S = 600  # a page that was left without a goodbye; open pages are never ended


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    request = parser.parse_args(arguments)
    try:
        return {"serve": serve, "export": export}[request.command](request)
    except StudyError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # Ctrl-C: all answers are on disk
        return 130


def serve(request: argparse.Namespace) -> int:
    if importlib.util.find_spec("voila") is None:
        raise StudyError("the page is served by voila, which is not installed: pip install voila")
    host, port = request.host or "127.0.0.1", _number("PORT", request.port, PORT)
    asked = Asked(
        run=_run(request),
        mode=request.mode or "rate",
        study=request.study,
        raters=request.raters,
        screener=request.screener,
        controls=_number("CONTROLS", request.controls),
        turing=_yes_or_no("TURING", request.turing),
        seed=_number("SEED", request.seed),
        series=_number("SERIES", request.series),
    )
    _require_free(host, port)
    path, people = begin(asked)
    shown = "127.0.0.1" if host == "0.0.0.0" else host
    print(f"Study {path.stem} of run {asked.run}: {path}\nThe page is starting ...", flush=True)
    lines = [
        "Give each of them their own address, and nobody else's; it is all they need to come back where they left off:"
    ]
    lines += [f"  {name} ({role}, {duty}): http://{shown}:{port}/#{token}" for name, role, duty, token in people]
    if host not in ("127.0.0.1", "localhost", "::1"):
        lines.append(
            "Other machines can reach this page and nothing on the way is encrypted: put it behind a proxy with TLS, or an SSH tunnel."
        )
    lines.append("Every answer is on disk at once. End with Ctrl-C, start again with the same command.")
    threading.Thread(target=announce, args=(shown, port, lines), daemon=True).start()
    os.environ[VARIABLE] = str(path)
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(TEMPLATES), *filter(None, [os.environ.get("JUPYTER_PATH")])])
    from voila.app import Voila

    Voila.launch_instance([str(PROJECT / "notebooks" / "rating_page.ipynb")], config=server(host, port))
    return 0


def announce(host: str, port: int, lines: list[str]) -> None:
    """Print `lines` as soon as the server at `host`:`port` answers a request: an address that is opened earlier leads nowhere."""
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    while True:
        try:
            urllib.request.urlopen(f"{address}/voila/static/voila-style.js", timeout=5).close()
        except urllib.error.HTTPError:
            break  # an answer all the same
        except OSError:
            time.sleep(0.2)
        else:
            break
    print(*lines, sep="\n", flush=True)


def server(host: str, port: int):
    """Settings of the server: no file of the disk is served, no code is shown or run, no trace of an error reaches a page."""
    from traitlets.config import Config

    settings = Config()
    settings.Voila.update(ip=host, port=port, port_retries=0, open_browser=False, log_level="WARN")
    settings.VoilaConfiguration.update(
        strip_sources=True,
        show_tracebacks=False,
        file_allowlist=[],
        file_denylist=[".*"],
        extension_allowlist=["@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8", "anywidget"],
        template="offline",  # that of JupyterLab without its requests to another host
        theme="dark",  # of the moment before the page appears; the page follows the browser
    )
    settings.VoilaExporter.exclude_markdown = True  # what the notebook tells an organiser
    # Nothing is fetched from anywhere else, not even a style sheet.
    policy = "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; frame-ancestors 'self'; form-action 'self'"
    settings.Voila.tornado_settings = {"headers": {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}}
    # An open page is never ended, however long it rests.
    settings.MappingKernelManager.update(cull_idle_timeout=IDLE_S, cull_interval=60, cull_connected=False)
    if os.name == "posix":
        settings.KernelManager.transport = "ipc"  # sockets that no other user of this machine can open
    return settings


def export(request: argparse.Namespace) -> int:
    run, mode = _run(request), request.mode or "rate"
    folder = Path(request.to).expanduser() if request.to else Workspace(run).root / "reader_study"
    for sentence in answers.export(location(run, Asked(run, mode, request.study).name), folder):
        print(sentence)
    print(f"written to {folder}")
    return 0


def _run(request: argparse.Namespace) -> str:
    if not request.run:
        raise StudyError("no run is named: add RUN=name")
    return request.run


def _number(name: str, text: str, default: int | None = None) -> int | None:
    if not text:
        return default
    if not text.isdigit():
        raise StudyError(f"{name}={text} is not a whole number: give 0 or more")
    return int(text)


def _yes_or_no(name: str, text: str) -> bool | None:
    known = {"": None, "1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}
    if text.lower() not in known:
        raise StudyError(f"{name}={text} is neither yes nor no: give {name}=1 or {name}=0")
    return known[text.lower()]


def _require_free(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OverflowError:
        raise StudyError(f"PORT={port} is not a port: choose one from 1024 to 65535") from None
    except OSError as fault:
        raise StudyError(
            f"port {port} of {host} cannot be used ({fault.strerror}): choose another with PORT=number"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dsa_lib.rating", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("serve", "export"):
        one = commands.add_parser(command)
        one.add_argument("--run", default="")
        one.add_argument("--mode", default="", help="rate (default) or annotate")
        one.add_argument("--study", default="", help="name of the study, if a run has several")
        if command == "export":
            one.add_argument("--to", default="", help="folder for the files (default: reader_study of the run)")
            continue
        one.add_argument("--raters", default="", help="NAME:ROLE,NAME:ROLE with roles NR, NS, IM, other")
        one.add_argument(
            "--screener", default="", help="who screens: a rater's name, or NAME:ROLE of somebody who screens only"
        )
        one.add_argument("--controls", default="", help="number of real frames to add (default 0)")
        one.add_argument("--turing", default="", help="1: ask for each image whether it is real")
        one.add_argument("--series", default="", help="mode annotate: number of series, drawn at random (default: all)")
        one.add_argument(
            "--seed", default="", help="seed of the image order and of the choice of controls and series (default 0)"
        )
        one.add_argument("--port", default="")
        one.add_argument("--host", default="", help="address to listen on (default: 127.0.0.1, only this machine)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
