"""The ledger of published numbers: every number in the paper's text, tables and captions, how it can be checked, and what the check finds.

`data_manifests/published.csv` holds one row a printed number (numbers in images are not text and are left out), in the paper's order:

- `id`, `place` (section, table or caption), `quantity` (what it is about: "PC A: frames"), `unit`, `times` (how often it stands in that place);
- `printed`: the text as printed; empty where `cell` names a cell of `published/*.csv` that holds it ("table3/AC A/Overall mean");
- `kind`: "exact" (a count, a setting), "rounded" (it stands for all that prints so), "words" (a statement, its parts between semicolons);
- `checks`: calls "name argument …", several between semicolons; the names are the functions of dsa_lib/_ledger_*.py, the arguments ids of other rows;
- `note`: why a number cannot be checked, or how it is read.

Nothing about the result of a check is written down: `verdicts` computes each of them, and `findings` makes its sentences from the computed numbers.
"""

import functools
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.paper import arithmetic, claims, reader_numbers  # noqa: F401 (they register the checks)
from dsa_lib.paper.printed_number import CHECKS, KINDS, OUTCOMES, Number, Outcome, Paper, parse
from dsa_lib.readers import rating_files
from dsa_lib.readers import tables as reader_tables
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import PROJECT

# Written out, so that the workflow sees which files a report depends on (workflow/plan.py).
FILE = PROJECT / "data_manifests" / "published.csv"
CELLS = PROJECT / "data_manifests" / "published"
RATINGS = FILE.with_name("reader_study")  # notebook 06, which a report follows, depends on it
COLUMNS = ["id", "place", "quantity", "printed", "unit", "kind", "times", "cell", "checks", "note"]
# What a run's simulation at the study's size wrote (dsa_lib.paper.cohort_at_size, notebook 01), by the file of published values it was fitted to.
SIMULATIONS = {name: f"tables/paper_scale_{name}.csv" for name in ("cohort", "figure1", "table1")}
RESTATED = "restated: agrees"
AGREES, DISAGREES = "recomputed: agrees", "recomputed: disagrees"
DOUBT, POSSIBLE = "recomputed: in doubt", "recomputed: possible"
REPRODUCED, NOT_CHECKABLE = "reproduced by simulation", "not checkable"
VERDICTS = {
    DISAGREES: "other published numbers give another value or statement",
    DOUBT: "holds only under conditions that the paper does not show",
    AGREES: "follows from other published numbers within what their printed digits allow",
    RESTATED: "printed in another place too, and the same there",
    REPRODUCED: "simulated records (§2.1–2.2) or reconstructed ratings (Tables 2–4), fitted to the published values, have it together with the others",
    POSSIBLE: "lies within bounds that other published numbers set",
    NOT_CHECKABLE: "nothing in the paper bears on it, or only a test that cannot fail: the reason is given",
}
_BY_OUTCOME = {
    "disagrees": DISAGREES,
    "in doubt": DOUBT,
    "agrees": AGREES,
    "restated": RESTATED,
    "reproduced": REPRODUCED,
    "possible": POSSIBLE,
}


def read(path: Path = FILE) -> dict[str, Number]:
    """All published numbers by id, in the paper's order. Raises StudyError for a row that cannot be what its columns say."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(frame.columns) != COLUMNS:
        raise StudyError(f"{path.name} has the columns {list(frame.columns)}: it must have {COLUMNS}")
    numbers = {}
    for row in frame.to_dict("records"):
        if row["id"] in numbers:
            raise StudyError(f"{path.name} has the id {row['id']!r} twice: give every number an id of its own")
        numbers[row["id"]] = _number(path.name, row)
    for number in numbers.values():
        _check_references(path.name, number, numbers)
    return numbers


def _number(file: str, row: dict[str, str]) -> Number:
    def fault(what: str) -> StudyError:
        return StudyError(f"{file}, {row['id']!r}: {what}")

    if row["kind"] not in KINDS:
        raise fault(f"kind {row['kind']!r} is not one of {', '.join(KINDS)}: correct it")
    if bool(row["printed"]) == bool(row["cell"]):
        raise fault("`printed` or `cell` must say what was printed, not both: empty or fill one of them")
    if not row["times"].isdigit() or int(row["times"]) < 1:
        raise fault(f"times {row['times']!r} is no count: say how often the number stands in {row['place']}")
    if not row["checks"] and not row["note"]:
        raise fault("has neither a check nor a reason why there is none: give `checks` or `note`")
    printed = row["printed"] or _cell(row["cell"], fault)
    values = () if row["kind"] == "words" else parse(printed)
    if row["kind"] != "words" and not values:
        raise fault(f"no number is read in {printed!r}: correct it, or make it a row of words")
    if row["kind"] == "rounded" and len(values) != 1:
        raise fault(f"{printed!r} holds {len(values)} figures: a rounded number has a row of its own")
    calls = tuple(tuple(call.split()) for call in row["checks"].split(";") if call.strip())
    return Number(
        **{name: row[name] for name in ("id", "place", "quantity", "unit", "kind", "cell", "note")},
        printed=printed,
        times=int(row["times"]),
        checks=calls,
        values=values,
    )


def _check_references(file: str, number: Number, numbers: Mapping[str, Number]) -> None:
    for name, *_ in number.checks:
        if name not in CHECKS:
            raise StudyError(f"{file}, {number.id!r}: no check is called {name!r}: the checks are {', '.join(CHECKS)}")


@functools.cache
def _published(name: str) -> dict[str, str]:
    """Cells of data_manifests/published/<name>.csv as printed: "row/column" (or the stage of figure1) → text."""
    path = CELLS / f"{name}.csv"
    if not path.exists():
        return {}
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    keys = frame["stage"] if "stage" in frame else frame["row"] + "/" + frame["column"]
    return dict(zip(keys, frame["published"], strict=True))


def _cell(name: str, fault) -> str:
    file, _, cell = name.partition("/")
    try:
        return _published(file)[cell]
    except KeyError:
        raise fault(f"published/{file}.csv has no cell {cell!r}: correct `cell`") from None


def cells() -> list[str]:
    """Every published cell that a row of the ledger can point at."""
    names = sorted(path.stem for path in CELLS.glob("*.csv"))
    return [f"{name}/{cell}" for name in names for cell in _published(name)]


def fitted_values(simulations: Mapping[str, Path], ratings: Path = RATINGS) -> dict[str, float]:
    """What was simulated or reconstructed so as to fit the published values, by `cell` of the ledger.

    `simulations`: files of SIMULATIONS that a run has, by name. `ratings`: folder with `screening.csv` and `ratings.csv` of reconstructed ratings, whose
    Tables 2–4 are computed as those of real ones. What is not there is left out.
    """
    values = {}
    for name, path in simulations.items():
        for row, column, value in pd.read_csv(path)[["row", "column", "fitted"]].itertuples(index=False):
            values[f"{name}/{row}" if name == "figure1" else f"{name}/{row}/{column}"] = float(value)
    if (ratings / "ratings.csv").exists():
        study = rating_files.open_reader_study(ratings / "screening.csv", ratings / "ratings.csv")
        for number, table in (
            (2, reader_tables.table2(study)),
            (3, reader_tables.table3(study)),
            (4, reader_tables.table4(reader_tables.reliability(study, resamples=0, seed=0))[0]),
        ):
            values |= {f"table{number}/{row}/{column}": float(value) for (row, column), value in table.items()}
    return values


def outcomes(paper: Paper, number: Number) -> list[tuple[str, Outcome]]:
    """(how, outcome) of every check of one number. Raises StudyError if a check is given ids or a number of them that it cannot take."""
    found = []
    for name, *arguments in number.checks:
        try:
            found.append((CHECKS[name].how, CHECKS[name](paper, number, *arguments)))
        except (KeyError, TypeError, IndexError) as error:
            raise StudyError(
                f"published.csv, {number.id!r}: the check {' '.join([name, *arguments])!r} cannot be made ({error}): correct its arguments"
            ) from error
    return found


def verdicts(
    numbers: Mapping[str, Number] | None = None,
    fitted: Mapping[str, float] | None = None,
    only: Collection[str] | None = None,
) -> pd.DataFrame:
    """One row a published number: id, place, quantity, printed, kind, times, how, computed, residual, verdict, because, against.

    `fitted` as from `fitted_values`; `only`: ids of the rows wanted. `residual` is printed minus computed where both are numbers; `against` the id of the
    row that says otherwise, where it is one. With several checks the verdict is that of the gravest: a number that one relation contradicts stays
    contradicted.
    """
    paper = Paper(read() if numbers is None else numbers, fitted or {})
    chosen = paper.numbers if only is None else only
    return pd.DataFrame([_row(paper[name], outcomes(paper, paper[name])) for name in chosen])


def read_verdicts(path: Path) -> pd.DataFrame:
    """The table of `verdicts` as it was written to the CSV file `path`."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return frame.assign(times=frame["times"].astype(int), residual=pd.to_numeric(frame["residual"]))


def _row(number: Number, found: list[tuple[str, Outcome]]) -> dict:
    found = sorted(found, key=lambda pair: OUTCOMES.index(pair[1].outcome))
    first = found[0][1] if found else Outcome("no power", "")
    # That a profile holds the value, or that nothing was simulated, is worth saying only where there is nothing else to say.
    # Nor does a fit to a number speak for it where the others contradict it: the fit found some way around them.
    silent = {"not run", "setting"} | ({"reproduced"} if first.outcome == "disagrees" else set())
    shown = [o.text for _, o in found if o.outcome == first.outcome or o.outcome not in silent]
    reasons = [_sentence(reason) for reason in [*shown, number.note] if reason]
    return {
        "id": number.id,
        "place": number.place,
        "quantity": number.quantity,
        "printed": number.text,
        "kind": number.kind,
        "times": number.times,
        "how": "; ".join(dict.fromkeys(how for how, _ in found)) or "–",
        "computed": first.computed,
        "residual": first.residual,
        "verdict": _BY_OUTCOME.get(first.outcome, NOT_CHECKABLE),
        "because": ". ".join(reasons),
        "against": first.against,
    }


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a symbol."""
    return text if text.startswith(("p =", "β")) else text[0].upper() + text[1:]


def findings(ledger: pd.DataFrame) -> pd.DataFrame:
    """Every number that others contradict or put in doubt: [place, quantity, verdict, because], contradictions first, each in the paper's order.

    Two places that contradict each other make one finding, and so do places of which the same is found.
    """
    chosen = pd.concat([ledger[ledger["verdict"].eq(verdict)] for verdict in (DISAGREES, DOUBT)])
    pairs = set(zip(chosen["id"], chosen["against"], strict=True))
    earlier = {name: position for position, name in enumerate(chosen["id"])}
    mirrored = [
        (row.against, row.id) in pairs and earlier[row.against] < earlier[row.id] for row in chosen.itertuples()
    ]
    chosen = chosen[~np.array(mirrored, bool)]
    grouped = chosen.groupby(["quantity", "verdict", "because"], sort=False)["place"].agg(" and ".join)
    return grouped.reset_index()[["place", "quantity", "verdict", "because"]]


def tally(ledger: pd.DataFrame) -> pd.DataFrame:
    """How many numbers and how many statements in words have which verdict: [verdict, numbers, statements, meaning], gravest first."""
    words = ledger["kind"].eq("words")
    numbers, statements = (ledger.loc[part, "verdict"].value_counts() for part in (~words, words))
    rows = [(name, int(numbers.get(name, 0)), int(statements.get(name, 0)), text) for name, text in VERDICTS.items()]
    return pd.DataFrame(rows, columns=["verdict", "numbers", "statements", "meaning"])
