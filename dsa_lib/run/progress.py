"""Progress of long steps: a bar on a terminal, rate-limited plain lines in a notebook (where a bar would fill the file)."""

import sys
import time
from collections import deque
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
    """Plain progress lines at most every `every_s` seconds: count, share, rate and time left.

    The rate is that of the last few lines: what a resumed run finds done at once would promise an end that is far off.
    """

    def __init__(self, what: str, total: int | None = None, every_s: float = 10.0, start: int = 0):
        self.what, self.total, self.every_s = what, total, every_s
        self._last = time.monotonic()
        self._marks = deque([(self._last, start)], maxlen=6)  # (time, count) of the lines before

    def at(self, count: int, extra: str = "", last: bool = False) -> None:
        """Tell that `count` are done; prints if the last line is old enough or `last` is set."""
        now = time.monotonic()
        if now - self._last < self.every_s and not last:
            return
        self._last = now
        since, done = self._marks[0]
        rate = (count - done) / max(now - since, 1e-9)
        self._marks.append((now, count))
        of = f"/{self.total}" if self.total else ""
        pace = f"{rate:.1f}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s each"
        left = f", {duration((self.total - count) / rate)} left" if self.total and rate > 0 else ""
        print(f"  {self.what} {count}{of}, {pace}{left}{' · ' + extra if extra else ''}", flush=True)


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use: 45 s, 12.3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
