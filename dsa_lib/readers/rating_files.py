"""Opening the reader study's two files: schema, cross-row checks, one clear sentence for every fault.

A fault stops the analysis (StudyError naming file, row and remedy); what is unusual but defined becomes a note. Rows are
counted as a spreadsheet shows them: the header is row 1.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.readers import rating_origin
from dsa_lib.readers.tables import EXPERT_ROLES, EXTERNAL, NOT_RATABLE, SEGMENTS, ReaderStudy, experts, image_scores
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import atomic_write

ROLES = ("NR", "NS", "IM", "other")
FLAGS = (*NOT_RATABLE, EXTERNAL)
CIRCULATION_SHORT = {"anterior": "AC", "posterior": "PC"}
RECONSTRUCTED = "reconstructed-"  # how the image names of `dsa_lib.paper.rating_reconstruction` begin
_KEPT = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_RATINGS = [str(r) for r in range(1, 6)]


def _one_of(values, remedy: str) -> pa.Check:
    return pa.Check.isin(list(values), error=remedy)


_FILLED = pa.Check.str_length(min_value=1, error="is empty: fill it in")
# No column of the contract: files of other programs do not have it.
_ORIGIN = pa.Column(
    str,
    _one_of(
        rating_origin.ORIGINS,
        f"must be one of {', '.join(rating_origin.ORIGINS)}: rename a column that means something else",
    ),
    required=False,
)
SCREENING = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str, _FILLED),
        "circulation": pa.Column(str, _FILLED),
        "plane": pa.Column(str, _FILLED),
        "kept": pa.Column(str, _one_of(_KEPT, "must be true or false")),
    }
)
RATINGS = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str, _FILLED),
        "rater": pa.Column(str, _FILLED),
        "role": pa.Column(str, _one_of(ROLES, f"must be one of {', '.join(ROLES)}")),
        "segment": pa.Column(str, _one_of(SEGMENTS, f"must be one of {', '.join(SEGMENTS)}")),
        "rating": pa.Column(
            str, _one_of([*_RATINGS, ""], "must be a whole number from 1 to 5, or empty where a flag is set")
        ),
        "flag": pa.Column(str, _one_of([*FLAGS, ""], f"must be empty or one of {', '.join(FLAGS)}")),
    }
)


def expert_roles(text: str) -> tuple[str, ...]:
    """Roles given as "NR,NS"; StudyError for one that `ratings.csv` cannot hold, or none."""
    roles = tuple(dict.fromkeys(role.strip() for role in text.split(",") if role.strip()))
    if not roles or not set(roles) <= set(ROLES):
        wrong = next((role for role in roles if role not in ROLES), "")
        raise StudyError(
            f"the parameter expert_roles names the role {wrong!r}: give one or more of {', '.join(ROLES)}, with commas"
        )
    return roles


def open_reader_study(
    screening: str | Path, ratings: str | Path, expert_roles: tuple[str, ...] = EXPERT_ROLES
) -> ReaderStudy:
    """Read and check `screening.csv` and `ratings.csv`; StudyError at the first fault.

    Any number of raters, any roles of the contract, any conditions. Unusual but defined (a kept image nobody rated, a
    rater who skipped images, one rater only, a rater who gave one value throughout) becomes a sentence in `notes`.
    """
    screened = _check(_read(Path(screening), SCREENING), SCREENING, Path(screening).name)
    rated = _check(_read(Path(ratings), RATINGS), RATINGS, Path(ratings).name)
    if screened.empty or (rated.empty and screened["kept"].isin([k for k, kept in _KEPT.items() if kept]).any()):
        empty = Path(screening).name if screened.empty else Path(ratings).name
        raise StudyError(f"{empty} has no rows: fill in one row for each {'image' if screened.empty else 'rating'}")
    screened = _screening_rows(screened, Path(screening).name)
    rated = _rating_rows(rated, screened, Path(ratings).name, Path(screening).name)
    files = {"screening": Path(screening), "ratings": Path(ratings)}
    tables = {"screening": screened, "ratings": rated}
    said = {name: rating_origin.stated(table, files[name].name) for name, table in tables.items()}
    origin = rating_origin.settle(said, rows_sha256(screened, rated), files)
    screened, rated = (table.drop(columns=rating_origin.COLUMN, errors="ignore") for table in tables.values())
    study = ReaderStudy(screened, rated, expert_roles=tuple(expert_roles), origin=origin)
    study.notes.extend(_notes(study))
    return study


def collect(screening: str | Path, ratings: str | Path, screening_to: Path, ratings_to: Path) -> ReaderStudy:
    """Check the files that were given, and copy them, byte for byte, into a run with a manifest of their origin.

    Simulated ratings stay simulated: by their column, their manifest, or their rows, which `rating_origin.known` finds again where both were taken away.
    Raises StudyError, before anything is written, for reconstructed ratings and for files that say something else than is known of them.
    """
    if not screening or not ratings:
        raise StudyError(
            f"the parameter {'ratings' if screening else 'screening'} is empty: reader files come in pairs, "
            "give the paths of both screening.csv and ratings.csv"
        )
    study = open_reader_study(screening, ratings)
    hashes = rows_sha256(study.screening, study.ratings)
    file = Path(ratings).name
    found = rating_origin.known(hashes["ratings"]) if len(study.ratings) else None
    if found and study.origin == rating_origin.READERS:
        raise StudyError(
            f"{file} says of itself that readers gave its ratings, but they are the {found[0]} ones of {found[1]}: give the files of readers"
        )
    origin = found[0] if found else study.origin
    if origin == rating_origin.RECONSTRUCTED or study.screening["image_id"].str.startswith(RECONSTRUCTED).any():
        raise StudyError(
            f"{file} holds reconstructed ratings, fitted to the published values, which must not pass for readers' own: "
            "give the files of readers (notebook 31 shows the reconstruction by itself)"
        )
    for source, target in ((screening, screening_to), (ratings, ratings_to)):
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
    rating_origin.write_manifest(ratings_to, origin, hashes)
    return replace(study, origin=origin)


def write_study(
    screening: pd.DataFrame, ratings: pd.DataFrame, screening_path: Path, ratings_path: Path, origin: str
) -> None:
    """Write the two contract files from frames with `kept` bool and `rating` numeric or NaN, and the manifest of their origin (of `rating_origin`)."""
    kept = screening.assign(kept=np.where(screening["kept"], "true", "false"))
    graded = ratings.assign(rating=ratings["rating"].astype("Int64"))
    for table, schema, path in ((kept, SCREENING, screening_path), (graded, RATINGS, ratings_path)):
        with atomic_write(path) as temporary:
            table[list(schema.columns)].assign(**{rating_origin.COLUMN: origin}).to_csv(temporary, index=False)
    rating_origin.write_manifest(ratings_path, origin, rows_sha256(screening, ratings))


def rows_sha256(screening: pd.DataFrame, ratings: pd.DataFrame) -> dict[str, str]:
    """Hash of either table's rows, by "screening" and "ratings" (of `rating_origin`)."""
    return {
        "screening": rating_origin.rows_sha256(screening, SCREENING.columns),
        "ratings": rating_origin.rows_sha256(ratings, RATINGS.columns),
    }


def _read(path: Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    wanted = ",".join(schema.columns)
    if not path.is_file():
        raise StudyError(f"{path.name} does not exist: give the path of a CSV file with the columns {wanted}")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as fault:
        line = str(fault).strip().splitlines()[-1]
        raise StudyError(f"{path.name} is not a readable CSV file ({line}): save it as UTF-8 with commas") from None
    table.columns = table.columns.str.strip()
    missing = [c for c in schema.columns if c not in table.columns]
    if missing:
        hint = (
            "save it with commas, not semicolons" if ";" in "".join(table.columns) else f"its header must be {wanted}"
        )
        raise StudyError(f"{path.name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}: {hint}")
    kept = [*schema.columns, *({rating_origin.COLUMN} & set(table.columns))]
    table = table[kept].apply(lambda column: column.fillna("").str.strip())
    table.index = table.index + 2  # the row a spreadsheet shows
    table = table[(table != "").any(axis=1)]  # blank lines, which spreadsheets leave at the end
    if "rating" in table:
        table["rating"] = table["rating"].str.replace(
            r"^(\d+)\.0+$", r"\1", regex=True
        )  # 4.0, as tables with gaps save 4
    if "kept" in table:
        table["kept"] = table["kept"].str.lower()
    return table


def _check(table: pd.DataFrame, schema: pa.DataFrameSchema, file: str) -> pd.DataFrame:
    try:
        return schema.add_columns({rating_origin.COLUMN: _ORIGIN}).validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases.sort_values("index", kind="stable")
        first = cases.iloc[0]
        same = cases[cases["check"].eq(first["check"]) & cases["column"].eq(first["column"])]
        value = f" {first['failure_case']!r}" if first["failure_case"] else ""
        _fault(file, same["index"], f"{first['column']}{value} {first['check']}")


def _fault(file: str, rows, sentence: str) -> None:
    """Raise the sentence with the first faulty row and how many more there are."""
    rows = [int(r) for r in rows]
    more = f" (and {len(rows) - 1} more row{'s' * (len(rows) > 2)})" if len(rows) > 1 else ""
    raise StudyError(f"{file} row {rows[0]}: {sentence}{more}")


def _screening_rows(table: pd.DataFrame, file: str) -> pd.DataFrame:
    twice = table.index[table["image_id"].duplicated()]
    if len(twice):
        _fault(file, twice, f"image {table.loc[twice[0], 'image_id']} was screened twice: keep one row an image")
    table = table.assign(kept=table["kept"].map(_KEPT).astype(bool))
    # "Anterior" and plane "b" are the conditions they seem to be, and no further ones.
    circulation = table["circulation"].map(lambda c: CIRCULATION_SHORT.get(c.lower(), c))
    table["cell"] = circulation + " " + table["plane"].map(lambda p: p.upper() if len(p) == 1 else p)
    return table


def _rating_rows(table: pd.DataFrame, screened: pd.DataFrame, file: str, screening_file: str) -> pd.DataFrame:
    """The checks that need more than one cell; each loop entry is (faulty rows, sentence about the first of them)."""
    rated, flagged = table["rating"].ne(""), table["flag"].ne("")
    kept = table["image_id"].map(screened.set_index("image_id")["kept"])
    image_rater = [table["image_id"], table["rater"]]
    external = table["flag"].eq(EXTERNAL)
    rows_of_image = external.groupby(image_rater).transform("size")
    partly = external.groupby(image_rater).transform("any") & ~(
        external.groupby(image_rater).transform("all") & rows_of_image.eq(len(SEGMENTS))
    )
    one_role = table.groupby("rater")["role"].transform("first")
    one_spelling = table.groupby(table["rater"].str.casefold())["rater"].transform("first")
    for faulty, sentence in [
        (kept.isna(), f"image {{image_id}} is not in {screening_file}: add it there or delete the row"),
        (
            kept.eq(False),
            f"image {{image_id}} was not kept in {screening_file}: delete the row, or set kept to true there",
        ),
        (
            table.duplicated(["image_id", "rater", "segment"]),
            "{rater} rated the {segment} segment of image {image_id} twice: keep one of the rows",
        ),
        (
            rated & flagged,
            "rating {rating} stands together with the flag {flag}: empty one of them",
        ),
        (
            ~rated & ~flagged,
            "neither a rating nor a flag is given: enter one, or delete the row if {rater} did not judge it",
        ),
        (
            partly,
            "{rater} marked only part of image {image_id} as external_circulation, which is a mark on the whole image: "
            "set it on all three rows, or on none",
        ),
        (
            table["role"].ne(one_role),
            "{rater} has the role {role} here and another one before: give each rater one role",
        ),
        (
            table["rater"].ne(one_spelling),
            "{rater} is spelled otherwise before, in upper and lower case: write each rater's name one way",
        ),
    ]:
        rows = table.index[faulty.astype(bool)]
        if len(rows):
            _fault(file, rows, sentence.format(**table.loc[rows[0]].to_dict()))
    table = table.assign(rating=pd.to_numeric(table["rating"].where(rated)).astype(float))
    return table.assign(cell=table["image_id"].map(screened.set_index("image_id")["cell"]))


def _notes(study: ReaderStudy) -> list[str]:
    notes = []
    raters = study.raters
    if study.ratings["rating"].nunique() == 1:
        only = study.ratings["rating"].dropna().iloc[0]
        notes.append(
            f"Every rating is {only:.0f}: without any variance no inter-rater reliability can be estimated (NaN)."
        )
    if len(raters) == 1:
        notes.append(f"There is one rater only ({raters[0]}), so no inter-rater reliability can be estimated (NaN).")
    elif len(experts(study)) < 2:
        notes.append(
            f"Fewer than two raters have an expert role ({', '.join(study.expert_roles)}), so the expert columns are NaN."
        )
    kept = set(study.kept["image_id"])
    if not kept:
        return ["No image was kept in the screening: there is nothing to rate, and Tables 3 and 4 are NaN."]
    unseen = kept - set(study.ratings["image_id"])
    if unseen:
        notes.append(
            f"{len(unseen)} of {len(kept)} kept images have no rating or flag from anyone and count as not scored."
        )
    for rater in raters:
        own = study.ratings[study.ratings["rater"].eq(rater)]
        answered = own.groupby("image_id").size()
        gaps = len(kept - unseen) - int(answered.eq(len(SEGMENTS)).sum())
        if gaps:
            notes.append(
                f"{rater} left {gaps} of {len(kept - unseen)} rated images unfinished; ICCs leave these images out."
            )
        given = own["rating"].dropna().unique()
        if len(given) == 1 and study.ratings["rating"].nunique() > 1:
            notes.append(f"{rater} gave the rating {given[0]:.0f} throughout, which pulls every ICC towards zero.")
        elif len(given) == 0:
            notes.append(f"{rater} gave flags only and no rating, so ICCs that include this rater are NaN.")
    scores = image_scores(study)
    for cell in study.cells:
        count = scores.loc[scores["cell"].eq(cell), [*SEGMENTS, "overall"]].notna().sum()
        if not count["overall"]:
            notes.append(f"{cell} has no scored image; its entries in Table 3 are NaN.")
            continue
        for n, what in ((0, "mean and SD are"), (1, "SD is")):
            if names := [name for name in count.index if count[name] == n]:
                notes.append(
                    f"{cell} has {n or 'no'} image{'s' * (n != 1)} with a score for {', '.join(names)}: the {what} NaN."
                )
    further = [cell for cell in study.cells if cell not in CELLS]
    if further:
        notes.append(f"Conditions beyond the paper's four: {', '.join(further)}.")
    return notes
