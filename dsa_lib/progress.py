"""Progress of long steps: a bar on a terminal, rate-limited plain lines in a notebook (where a bar would fill the file)."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(
    items: Iterable[Item], total: int | None = None, what: str = "items", every_s: float = 10.0
) -> Iterator[Item]:
    """Yield `items` and show how far it is: `what` names them, `total` defaults to len(items)."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what)
        return
    lines = Lines(what, total, every_s)
    for count, item in enumerate(items, start=1):
        yield item
        lines.at(count)


class Lines:
    """Plain progress lines at most every `every_s` seconds: count, share, rate, time left."""

    def __init__(self, what: str, total: int | None = None, every_s: float = 10.0, start: int = 0):
        self.what, self.total, self.every_s = what, total, every_s
        self._start_count = start
        self._started = self._last = time.monotonic()

    def at(self, count: int, extra: str = "", last: bool = False) -> None:
        """Tell that `count` are done; prints if the last line is old enough or `last` is set."""
        now = time.monotonic()
        if now - self._last < self.every_s and not last:
            return
        self._last = now
        rate = (count - self._start_count) / max(now - self._started, 1e-9)
        of = f"/{self.total}" if self.total else ""
        left = f", {(self.total - count) / rate:.0f} s left" if self.total and rate > 0 else ""
        print(f"  {self.what} {count}{of}, {rate:.1f}/s{left}{' · ' + extra if extra else ''}", flush=True)
