"""The answers of a study in one SQLite file: each is a committed transaction before anybody is told that it was saved.

Write-ahead log and `synchronous=FULL`: several pages write at once, and what was acknowledged survives the end of any process and of the machine. The
file holds the study whole (images, orders, answers, audit trail), so that a run whose images are made anew cannot change what was shown.
"""

import contextlib
import hashlib
import secrets
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dsa_lib.run.errors import StudyError

APPLICATION_ID = 0x44534152  # "DSAR": tells this file from any other SQLite database
FORMAT = 1
SEGMENTS = (
    "proximal",
    "medium",
    "peripheral",
)  # §2.4, as readers.SEGMENTS; not imported, a page's process has to start quickly
GRADES = ("1", "2", "3", "4", "5", "not_present", "not_applicable", "")  # "" takes an answer back
ALLOWED = {
    "kept": ("true", "false"),
    **dict.fromkeys(SEGMENTS, GRADES),
    "external_circulation": ("true", ""),
    "origin": ("archive", "generated", ""),
}
STAGE_OF = {"kept": "screening", "frame": "annotation"}  # every other field belongs to the rating
NO_FRAME = "none"  # annotation: the series shows no arterial frame that could stand for it
TOKEN_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is mistaken for something else on paper

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE raters (rater INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, screens INTEGER NOT NULL, rates INTEGER NOT NULL,
  token_sha256 TEXT NOT NULL UNIQUE);
CREATE TABLE images (image INTEGER PRIMARY KEY, image_id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL CHECK (kind IN ('generated', 'control', 'series')),
  circulation TEXT NOT NULL, plane TEXT NOT NULL, first_frame INTEGER, frame_numbers TEXT, png BLOB);
CREATE TABLE places (rater INTEGER NOT NULL REFERENCES raters, stage TEXT NOT NULL, place INTEGER NOT NULL, image INTEGER NOT NULL REFERENCES images,
  key TEXT NOT NULL UNIQUE, PRIMARY KEY (rater, stage, place)) WITHOUT ROWID;
CREATE TABLE answers (rater INTEGER NOT NULL REFERENCES raters, image INTEGER NOT NULL REFERENCES images, field TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY (rater, image, field)) WITHOUT ROWID;
CREATE TABLE audit (entry INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, rater INTEGER NOT NULL REFERENCES raters,
  image INTEGER REFERENCES images, field TEXT NOT NULL, old TEXT NOT NULL, new TEXT NOT NULL);
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit trail is not changed'); END;
CREATE TRIGGER audit_kept BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit trail is not changed'); END;
"""


@dataclass(frozen=True)
class Rater:
    """Who rates: `screens` decides what is kept, `rates` grades what was kept (or marks frames)."""

    number: int
    name: str
    role: str
    screens: bool
    rates: bool


@dataclass(frozen=True)
class Place:
    """One image in the order of one rater; `key` is all that a page ever learns of it."""

    key: str
    image: int
    place: int


class Closed(StudyError):
    """An answer to a stage that is not open: nothing was changed."""


class Store:
    """One study's file. A connection of its own in every process; not to be shared between threads."""

    def __init__(self, path: Path):
        """Open an existing study; StudyError where the file is missing, is no study of this project, or is of another format."""
        self.path = Path(path)
        if not self.path.is_file():
            raise StudyError(f"there is no study in {self.path.name}: start it with make readers")
        self._db = _connect(self.path)
        try:
            application, version = (
                self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            )
        except sqlite3.DatabaseError:
            application, version = 0, 0
        if application != APPLICATION_ID or version != FORMAT:
            self._db.close()
            other = "is of another version of this project" if application == APPLICATION_ID else "is no reader study"
            raise StudyError(f"{self.path.name} {other}: move it away, or give the study another name with STUDY=name")
        _safe_writing(self._db, self.path)

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that holds the write lock from its start, so that what it reads is what it changes."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # --- what the study is ------------------------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT name, value FROM facts"))

    def raters(self) -> list[Rater]:
        rows = self._db.execute("SELECT rater, name, role, screens, rates FROM raters ORDER BY rater")
        return [Rater(number, name, role, bool(screens), bool(rates)) for number, name, role, screens, rates in rows]

    def rater_of(self, token: str) -> Rater | None:
        """Whose token it is; None where it is nobody's."""
        row = self._db.execute("SELECT rater FROM raters WHERE token_sha256 = ?", [token_sha256(token)]).fetchone()
        return next((rater for rater in self.raters() if row and rater.number == row[0]), None)

    def set_token(self, rater: Rater, token: str) -> None:
        with self._writing() as db:
            db.execute("UPDATE raters SET token_sha256 = ? WHERE rater = ?", [token_sha256(token), rater.number])

    def places(self, rater: Rater, stage: str) -> list[Place]:
        """The images of a stage in the order of this rater: of the rating those alone that were kept."""
        kept = "AND image IN (SELECT image FROM answers WHERE field = 'kept' AND value = 'true')"
        rows = self._db.execute(
            f"SELECT key, image, place FROM places WHERE rater = ? AND stage = ? {kept if stage == 'rating' else ''} ORDER BY place",
            [rater.number, stage],
        )
        return [Place(*row) for row in rows]

    def png(self, image: int) -> bytes:
        return self._db.execute("SELECT png FROM images WHERE image = ?", [image]).fetchone()[0]

    def series_frames(self, image: int) -> tuple[str, int, str]:
        """(series, row of its first frame in frames.npy, its frames' numbers in the file as JSON)."""
        query = "SELECT image_id, first_frame, frame_numbers FROM images WHERE image = ?"
        return self._db.execute(query, [image]).fetchone()

    # --- answers ----------------------------------------------------------------------------------------------------------------------------

    def answers(self, rater: Rater) -> dict[int, dict[str, str]]:
        """All that this rater has answered: image → field → value. Answers that were taken back are left out."""
        found: dict[int, dict[str, str]] = {}
        for image, field, value in self._db.execute(
            "SELECT image, field, value FROM answers WHERE rater = ? AND value <> ''", [rater.number]
        ):
            found.setdefault(image, {})[field] = value
        return found

    def put(self, rater: Rater, image: int, field: str, value: str) -> bool:
        """Save one answer; on return it is on disk. False where it stood there already.

        The last write wins; each change leaves a line in the audit trail, in the same transaction. Raises Closed for a screening that is closed or a rating
        that has not begun, StudyError for a value that the field does not take.
        """
        if not (value in ALLOWED[field] if field in ALLOWED else field == "frame" and _is_frame(value)):
            raise StudyError(f"{value!r} is not an answer to {field}: choose one of those on the page")
        with self._writing() as db:
            closed = db.execute("SELECT 1 FROM facts WHERE name = 'screening_closed'").fetchone() is not None
            stage = STAGE_OF.get(field, "rating")
            if stage == "screening" and closed:
                raise Closed("The screening is closed; nothing was changed.")
            if stage == "rating" and not closed:
                raise Closed("The screening is not finished yet; nothing was changed.")
            place = [rater.number, image]
            row = db.execute(
                "SELECT value FROM answers WHERE rater = ? AND image = ? AND field = ?", [*place, field]
            ).fetchone()
            old = row[0] if row else ""
            if old == value:
                return False
            db.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                [*place, field, value],
            )
            _note(db, *place, field, old, value)
        return True

    @property
    def screening_closed(self) -> bool:
        return self._db.execute("SELECT 1 FROM facts WHERE name = 'screening_closed'").fetchone() is not None

    def close_screening(self, rater: Rater) -> None:
        """From now on the kept images are fixed and rating is open; a second call changes nothing. Raises Closed while an image is undecided."""
        with self._writing() as db:
            if db.execute("SELECT 1 FROM facts WHERE name = 'screening_closed'").fetchone():
                return
            of, decided = (
                db.execute(query, [rater.number]).fetchone()[0]
                for query in (
                    "SELECT count(*) FROM places WHERE rater = ? AND stage = 'screening'",
                    "SELECT count(*) FROM answers WHERE rater = ? AND field = 'kept'",
                )
            )
            if not rater.screens or decided < of:
                raise Closed(f"{of - decided} images are not decided yet; the screening stays open.")
            db.execute("INSERT INTO facts VALUES ('screening_closed', ?)", [_now()])
            _note(db, rater.number, None, "screening_closed", "", "true")

    def rows(self, query: str, *values: object) -> list[tuple]:
        """For the export: rows of a reading query."""
        return self._db.execute(query, values).fetchall()


def create(
    path: Path,
    facts: Mapping[str, str],
    raters: Sequence[tuple],
    images: Sequence[tuple],
    orders: Mapping[tuple, Sequence[int]],
) -> None:
    """Write a new study at once, or not at all.

    `raters`: (name, role, screens, rates, token). `images`: (image_id, kind, circulation, plane, first_frame, frame_numbers, png), numbered from 0 as they
    stand. `orders`: (rater's number, stage) → the images' numbers in the order in which this rater sees them.
    """
    path = Path(path)
    if path.exists():
        raise StudyError(f"{path.name} exists already: give the study another name with STUDY=name")
    making = path.with_name(f".making-{uuid.uuid4().hex}.db")
    try:
        db = _connect(making)
        _safe_writing(db, making)
        db.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; {_TABLES}")
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO facts VALUES (?, ?)", [*facts.items(), ("study", uuid.uuid4().hex), ("begun", _now())]
        )
        for number, (name, role, screens, rates, token) in enumerate(raters):
            db.execute(
                "INSERT INTO raters VALUES (?, ?, ?, ?, ?, ?)",
                [number, name, role, screens, rates, token_sha256(token)],
            )
        db.executemany(
            "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(n, *image) for n, image in enumerate(images)]
        )
        for (rater, stage), order in orders.items():
            db.executemany(
                "INSERT INTO places VALUES (?, ?, ?, ?, ?)",
                [(rater, stage, place, image, secrets.token_hex(8)) for place, image in enumerate(order)],
            )
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        making.chmod(0o600)
        making.rename(path)
    finally:
        for left in (making, Path(f"{making}-wal"), Path(f"{making}-shm")):
            left.unlink(missing_ok=True)


def new_token() -> str:
    """A rater's token, 79 random bits in four groups of four."""
    return "-".join("".join(secrets.choice(TOKEN_ALPHABET) for _ in range(4)) for _ in range(4))


def token_sha256(token: str) -> str:
    """What the file keeps of a token; blanks, dashes and capitals do not matter, as it may be typed from paper."""
    return hashlib.sha256("".join(c for c in str(token).lower() if c.isalnum()).encode()).hexdigest()


def _connect(path: Path) -> sqlite3.Connection:
    # Statements are committed where the code says so (isolation_level=None); a page waits for another's commit instead of failing.
    return sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)


def _safe_writing(db: sqlite3.Connection, path: Path) -> None:
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StudyError(
            f"the folder of {path.name} does not allow SQLite's write-ahead log (a network drive?): put the runs on a local disk"
        )
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")


def _note(db: sqlite3.Connection, rater: int, image: int | None, field: str, old: str, new: str) -> None:
    db.execute(
        "INSERT INTO audit (time, rater, image, field, old, new) VALUES (?, ?, ?, ?, ?, ?)",
        [_now(), rater, image, field, old, new],
    )


def _is_frame(value: str) -> bool:
    return value in ("", NO_FRAME) or (value.isascii() and value.isdigit())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
