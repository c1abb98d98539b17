"""One set of images made by several processes, at any time and on any machine that sees the folder: which shard made what, and which is missing.

Nothing is locked and no shard touches what another one makes. A shard owns its images and one part, `.parts/<set>-<shard>-of-<shards>.parquet`,
written when its last image is there; each file appears whole or not at all. A shard first writes its part and then looks for the others', so that
of two which end at the same moment at least one sees both.
"""

import re
from pathlib import Path

import pandas as pd

from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import atomic_write

MANIFEST = "manifest.parquet"
_NAME = re.compile(r"(?P<key>[0-9a-f]{16})-(?P<shard>\d+)-of-(?P<shards>\d+)\.parquet")


def check(shard: int, num_shards: int) -> None:
    """Raise StudyError unless 0 ≤ shard < num_shards."""
    if num_shards < 1 or not 0 <= shard < num_shards:
        raise StudyError(
            f"shard {shard} of {num_shards} does not exist: shards are numbered from 0 to num_shards − 1, and num_shards is 1 or more"
        )


def rows(plan: pd.DataFrame, shard: int, num_shards: int) -> pd.DataFrame:
    """The rows of `plan` that belong to a shard: every num_shards-th one, so that all shards have the same mix of conditions and work."""
    check(shard, num_shards)
    return plan.iloc[shard::num_shards]


def write_part(folder: Path, key: str, shard: int, num_shards: int, part: pd.DataFrame) -> None:
    """State that a shard has made all its images: `part` are its rows of the manifest."""
    with atomic_write(_parts(folder) / f"{key[:16]}-{shard}-of-{num_shards}.parquet") as temporary:
        part.to_parquet(temporary, index=False)


def read_parts(folder: Path, key: str) -> list[pd.DataFrame]:
    """What the finished shards of the set `key` have made."""
    return [pd.read_parquet(path) for path in sorted(_parts(folder).glob(f"{key[:16]}-*.parquet"))]


def forget_others(folder: Path, key: str) -> None:
    """Remove the parts of sets that were made with another model, other numbers or another plan."""
    for path in _parts(folder).glob("*.parquet"):
        if not path.name.startswith(key[:16]):
            path.unlink(missing_ok=True)


def missing(folder: Path) -> str:
    """Which shards have not finished, as one sentence; "" where the set is whole, or no shard of it has finished."""
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        return ""
    done: dict[int, set[int]] = {}
    for path in _parts(folder).glob("*.parquet"):
        if match := _NAME.fullmatch(path.name):
            done.setdefault(int(match["shards"]), set()).add(int(match["shard"]))
    if not done:
        return ""
    count = min(done, key=lambda number: number - len(done[number]))
    absent = sorted(set(range(count)) - done[count])
    if not absent:
        which = f"its {count} shards are made, but not yet put together"
    elif len(absent) == 1:
        which = f"shard {absent[0]} of {count} is missing"
    else:
        which = f"shards {', '.join(map(str, absent[:-1]))} and {absent[-1]} of {count} are missing"
    return (
        f"{which}: run notebooks/05_sampling.ipynb with shard=… and num_shards={count} for each that is missing, "
        "or once without, which makes whatever is missing and puts the set together"
    )


def _parts(folder: Path) -> Path:
    return Path(folder) / ".parts"
