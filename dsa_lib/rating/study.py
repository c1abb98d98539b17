"""Making a study from a run: its images without names, an order of its own for every rater, tokens; and opening it again."""

import csv
import functools
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsa_lib.core.images import read_images
from dsa_lib.curation import cohort
from dsa_lib.rating.sitting import Sitting, as_png
from dsa_lib.rating.store import Store, create, new_token
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import Workspace, atomic_write

FOLDER = "reader_study"  # below the run's private folder: it holds tokens, and what ties images to conditions
MODES = ("rate", "annotate")
ROLES = ("NR", "NS", "IM", "other")  # as reader_files.ROLES
# §2.4: two neuroradiologists, of whom the senior one screens, a neurosurgeon and an internist.
DEFAULT_RATERS = {"rate": "NR1:NR,NR2:NR,NS1:NS,IM1:IM", "annotate": "NR1:NR"}
CELL_COLUMNS = ["circulation", "plane"]


@dataclass(frozen=True)
class Asked:
    """What `make readers` was asked for; empty or None means: as the study has it, or the default of a new one."""

    run: str
    mode: str = "rate"
    study: str = ""  # its name; several may belong to one run
    raters: str = ""  # NAME:ROLE,NAME:ROLE
    screener: str = ""  # who screens: one of the raters, or NAME:ROLE of somebody who screens only
    controls: int | None = None  # real frames mixed in
    turing: bool | None = None  # ask of each image whether it is real
    seed: int | None = None  # of the orders and the choice of controls
    series: int | None = None  # mode annotate: how many series, 0 for all

    @property
    def name(self) -> str:
        return self.study or {"rate": "ratings", "annotate": "annotations"}[self.mode]


def location(run: str, name: str) -> Path:
    """Where a study's file lies: runs/<run>/private/reader_study/<name>.db. Makes no folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise StudyError(f"the study's name {name!r} cannot be a file: use letters, digits, '_' and '-'")
    return Workspace(run).root / "private" / FOLDER / f"{name}.db"


def begin(asked: Asked) -> tuple[Path, list[tuple]]:
    """Start the study, or go on with it if it has begun: (its file, rows (name, role, what the rater does, token)).

    Raises StudyError for a run without the images, unknown roles, and where a study of that name has other raters, controls, orders or images than asked.
    """
    if asked.mode not in MODES:
        raise StudyError(f"MODE={asked.mode} is unknown: choose one of {', '.join(MODES)}")
    path = location(asked.run, asked.name)
    ws = Workspace(asked.run)
    if not ws.root.is_dir():
        raise StudyError(
            f"there is no run {asked.run!r}: make it with make reproduce RUN={asked.run}, or name another with RUN=name"
        )
    if path.exists():
        _check_same(asked, path)
    else:
        ws.private(f"{FOLDER}/{path.name}")  # makes the folder, open to its owner alone
        _make(asked, path, ws)
    return path, _tokens(path)


def open_sitting(path: Path) -> Sitting:
    """A sitting at the study in `path`; of mode annotate with the run's frames, which must be those the study began with."""
    store = Store(path)
    facts = store.facts()
    ws = Workspace(facts["run"])
    require_same_images(ws, facts)
    return Sitting(store, functools.partial(_frames, ws, store) if facts["mode"] == "annotate" else None)


def _frames(ws: Workspace, store: Store, image: int) -> np.ndarray:
    """Frames of a series as large as its file has them, for an expert's eye; those of the frame store where the archive is not at hand."""
    series, first, numbers = store.series_frames(image)
    numbers = json.loads(numbers)
    try:
        return cohort.stored_frames(ws, series, numbers)
    except StudyError:
        return np.load(ws.root / "frames.npy", mmap_mode="r")[first : first + len(numbers)]


def require_same_images(ws: Workspace, facts: dict[str, str]) -> None:
    """StudyError where the run's images have been made anew since the study began: its answers are about others."""
    artifact = {"rate": "samples/reader", "annotate": "frames.npy"}[facts["mode"]]
    if _recorded(ws, artifact) != facts["images"]:
        raise StudyError(
            f"{artifact} of run {ws.run!r} was regenerated after this study began: export its answers (make readers-export) and begin another with STUDY=name"
        )


def _make(asked: Asked, path: Path, ws: Workspace) -> None:
    seed = asked.seed or 0
    people = _people(asked)
    if asked.mode == "annotate":
        if asked.controls or asked.turing:
            raise StudyError("CONTROLS and TURING belong to MODE=rate: leave them out")
        images, stages, artifact = _series(ws, asked.series or 0, seed), ("annotation",), "frames.npy"
    else:
        images, stages, artifact = _reader_set(ws), ("screening", "rating"), "samples/reader"
        images += _controls(ws, asked.controls or 0, seed, images)
    window = _window(_some_frames(ws, images))
    orders = {}
    for number, (name, _, screens, rates, _) in enumerate(people):
        for stage in stages:
            if (screens and stage == "screening") or (rates and stage != "screening"):
                rng = np.random.default_rng([seed, zlib.crc32(name.encode()), zlib.crc32(stage.encode())])
                orders[number, stage] = rng.permutation(len(images)).tolist()
    facts = {
        "run": asked.run,
        "mode": asked.mode,
        "seed": str(seed),
        "raters": _written(people),
        "controls": str(sum(image[1] == "control" for image in images)),
        "turing": "true" if asked.turing else "false",
        "series": str(asked.series or 0),
        "images": _recorded(ws, artifact),
        "window": json.dumps(window),
        "origin": "phantom" if ws.manifest("00_phantom_archive") else "archive",
    }
    _write_tokens(path, people)
    create(path, facts, people, images, orders)


def _people(asked: Asked) -> list[tuple]:
    """(name, role, screens, rates, token) of everybody; the first rater screens unless another is named."""
    people = [_person(text) for text in (asked.raters or DEFAULT_RATERS[asked.mode]).split(",") if text.strip()]
    names = [name for name, _ in people]
    if not people or len({name.casefold() for name in names}) < len(names):  # NR1 and nr1 would be one to the analysis
        raise StudyError(
            f"RATERS={asked.raters} names {'nobody' if not people else 'somebody twice'}: give NAME:ROLE,NAME:ROLE"
        )
    if asked.mode == "annotate":
        return [(name, role, False, True, new_token()) for name, role in people]
    screener = asked.screener or names[0]
    if screener not in names and ":" not in screener:
        raise StudyError(
            f"SCREENER={screener} is none of the raters {', '.join(names)}: name one, or NAME:ROLE of somebody who screens only"
        )
    rows = [(name, role, name == screener, True, new_token()) for name, role in people]
    if screener not in names:
        name, role = _person(screener)
        if name.casefold() in {other.casefold() for other in names}:
            raise StudyError(f"SCREENER={screener} is a rater already: give the name alone")
        rows.append((name, role, True, False, new_token()))
    return rows


def _person(text: str) -> tuple[str, str]:
    name, _, role = text.strip().partition(":")
    if not re.fullmatch(r"\w[\w .-]*", name) or role not in ROLES:
        raise StudyError(f"{text.strip()!r} is not a rater: write NAME:ROLE with one of the roles {', '.join(ROLES)}")
    return name, role


def _written(people: Sequence[tuple]) -> str:
    return ",".join(
        f"{name}:{role}{'*' if screens else ''}{'' if rates else '-'}" for name, role, screens, rates, _ in people
    )


def _check_same(asked: Asked, path: Path) -> None:
    store = Store(path)
    facts = store.facts()
    store.close()
    if facts["run"] != asked.run or facts["mode"] != asked.mode:
        raise StudyError(
            f"{path.name} is a study of run {facts['run']!r} in mode {facts['mode']}, not of {asked.run!r} in mode {asked.mode}: "
            "give the study another name with STUDY=name"
        )
    require_same_images(Workspace(asked.run), facts)
    wanted = {
        "raters": _written(_people(asked)) if asked.raters or asked.screener else None,
        "controls": asked.controls,
        "turing": None if asked.turing is None else str(asked.turing).lower(),
        "seed": asked.seed,
        "series": asked.series,
    }
    for name, value in wanted.items():
        if value is not None and str(value) != facts[name]:
            raise StudyError(
                f"the study {path.stem} has begun with other {name} than now asked for: leave {name.upper()} out to continue it, "
                "or begin another with STUDY=name"
            )


# --- images -----------------------------------------------------------------------------------------------------------------------------------


def _recorded(ws: Workspace, artifact: str) -> str:
    """The hash that the artifact's notebook recorded for it, "" where there is none."""
    manifest = ws.manifest(ws.producer(artifact))
    return (manifest or {"outputs": {}})["outputs"].get(artifact, "")


def _need(ws: Workspace, artifact: str, what: str) -> Path:
    if not _recorded(ws, artifact) or not (ws.root / artifact).exists():
        manifest = ws.manifest(ws.producer(artifact))
        if manifest and manifest["status"] == "skipped":
            raise StudyError(f"the run {ws.run!r} has no {what}: {manifest['reason']}")
        raise StudyError(
            f"the run {ws.run!r} has no {what} yet: run notebooks/{ws.producer(artifact)}.ipynb of it first, or make reproduce RUN={ws.run}"
        )
    return ws.root / artifact


def _some_frames(ws: Workspace, images: Sequence[tuple]) -> np.ndarray:
    """Up to 200 of the study's images, or of the run's frames where series are to be marked, uint8 [n, H, W]."""
    import io

    from PIL import Image

    pngs = [image[-1] for image in images if image[-1] is not None]
    if pngs:
        return np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in pngs[:: len(pngs) // 200 + 1]])
    frames = np.load(ws.root / "frames.npy", mmap_mode="r")
    return frames[:: len(frames) // 200 + 1]


def _window(frames: np.ndarray) -> list[int]:
    """[width, level] that the page opens with, one for the whole study: the darkest vessels black, the field at three quarters of the display's range.

    Subtracted frames are mostly field of one grey: shown over all 256 greys, their vessels would be faint. One window for all tells nothing of an image.
    """
    darkest, field = np.percentile(frames, 0.1), np.median(frames)
    width = max((field - darkest) / 0.75, 64)
    return [round(width), round(field - width / 4)]


def _reader_set(ws: Workspace) -> list[tuple]:
    """The generated images, as pixels alone: what a file says of itself does not enter the study."""
    import pandas as pd

    folder = _need(ws, "samples/reader", "reader set")
    manifest = pd.read_parquet(folder / "manifest.parquet")
    pixels = read_images(folder, manifest["file"].tolist())
    return [
        (row.image_id, "generated", row.circulation, row.plane, None, None, as_png(frame))
        for row, frame in zip(manifest.itertuples(), pixels, strict=True)
    ]


def _controls(ws: Workspace, count: int, seed: int, generated: Sequence[tuple]) -> list[tuple]:
    """`count` arterial frames of patients whom no model was trained on, the conditions of the reader set in turn, one frame a series where they suffice."""
    if count < 0:
        raise StudyError(f"CONTROLS={count} is not a number of images: give 0 or more")
    if not count:
        return []
    import pandas as pd

    arterial = pd.read_parquet(_need(ws, "arterial.parquet", "arterial frames"))
    frames = np.load(_need(ws, "frames.npy", "frames"), mmap_mode="r")
    wanted = {(circulation, plane) for _, _, circulation, plane, *_ in generated}
    cells = pd.MultiIndex.from_frame(arterial[CELL_COLUMNS]).isin(wanted) & (arterial["cell"] != "Others")
    held_out = arterial[(arterial["split"] == "test") & cells].sample(frac=1, random_state=seed)
    # The first frame of every series before any second one, and of each condition before the next of another.
    held_out = held_out.assign(turn=held_out.groupby("series").cumcount()).sort_values("turn", kind="stable")
    held_out = held_out.assign(round=held_out.groupby("cell").cumcount()).sort_values("round", kind="stable")
    if len(held_out) < count:
        raise StudyError(
            f"CONTROLS={count} are more than the {len(held_out)} arterial frames of test patients in the conditions of the reader set: ask for fewer"
        )
    size = _size(generated[0][-1])
    if frames.shape[1:] != size:
        raise StudyError(
            f"real frames are {frames.shape[1:]} and generated ones {size}, which tells them apart: leave CONTROLS out"
        )
    return [
        (
            f"control{number:03d}",
            "control",
            row.circulation,
            row.plane,
            int(row.frame_id),
            None,
            as_png(frames[row.frame_id]),
        )
        for number, row in enumerate(held_out.head(count).itertuples(), 1)
    ]


def _size(png: bytes) -> tuple[int, int]:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return image.size[::-1]


def _series(ws: Workspace, count: int, seed: int) -> list[tuple]:
    """The kept series (a random `count` of them, all for 0); their frames stay in the frame store."""
    import pandas as pd

    _need(ws, "frames.npy", "frames")
    frames = pd.read_parquet(_need(ws, "frames.parquet", "list of frames"))
    # A series' frames are consecutive rows; their numbers in the file can have gaps, where its mask module leaves frames unsubtracted.
    series = frames.groupby("series", sort=False).agg(
        circulation=("circulation", "first"),
        plane=("plane", "first"),
        first=("frame_id", "min"),
        numbers=("frame", list),
    )
    if count < 0 or count > len(series):
        raise StudyError(
            f"SERIES={count} of {len(series)} curated series cannot be shown: ask for at most so many, 0 for all"
        )
    if count:
        series = series.sample(count, random_state=seed)
    return [
        (row.Index, "series", row.circulation, row.plane, int(row.first), json.dumps(row.numbers), None)
        for row in series.itertuples()
    ]


# --- tokens -----------------------------------------------------------------------------------------------------------------------------------


def tokens_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}_tokens.csv")


def _write_tokens(path: Path, people: Sequence[tuple]) -> None:
    with atomic_write(tokens_file(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "token"), *((name, token) for name, *_, token in people)])


def _tokens(path: Path) -> list[tuple]:
    """(name, role, what this person does, token); tokens whose list was lost are drawn anew."""
    store = Store(path)
    listed = {}
    if tokens_file(path).exists():
        with tokens_file(path).open(newline="", encoding="utf-8") as file:
            listed = {row["name"]: row["token"] for row in csv.DictReader(file)}
    people = store.raters()
    lost = [
        person
        for person in people
        if (store.rater_of(listed.get(person.name, "")) or person) != person or person.name not in listed
    ]
    for person in lost:
        listed[person.name] = new_token()
    if lost:
        _write_tokens(path, [(person.name, listed[person.name]) for person in people])
    for person in people:
        if store.rater_of(listed[person.name]) != person:
            store.set_token(person, listed[person.name])
    mode = store.facts()["mode"]
    store.close()
    duty = {
        (True, True): "screens, then rates",
        (True, False): "screens",
        (False, True): "rates" if mode == "rate" else "marks frames",
    }
    return [(p.name, p.role, duty[p.screens, p.rates], listed[p.name]) for p in people]
