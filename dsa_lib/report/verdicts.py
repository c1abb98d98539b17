"""What a run found, in sentences: the answer with which the report opens, and the conclusions that audits and extensions noted."""

from collections.abc import Mapping

import pandas as pd

from dsa_lib.core.published import RATING_SOURCES, as_text, read_table
from dsa_lib.paper import ledger
from dsa_lib.run.artifacts import AUDITS, EXTENSIONS, REPRODUCED
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import Workspace

# What audits and extensions note in their manifests: notebook, fact, title. The order is that of the report.
NOTED = (
    ("11_condition_adherence", "adherence", "Condition adherence"),
    ("11_condition_adherence", "angles", "Angles"),
    ("12_vessel_plausibility", "plausibility", "Vessel plausibility"),
    ("13_memorisation", "memorisation", "Memorisation"),
    ("13_memorisation", "planted copies", "Positive controls (planted copies)"),
    ("14_utility", "utility", "Use as training data"),
    ("21_maps_and_edges", "scores", "Images from maps"),
    ("22_map_edits", "use", "Generated pairs as training data"),
    ("22_map_edits", "edits", "Edited maps"),
    ("23_lesion_post_training", "lesions", "Lesion-aware post-training"),
    ("24_peripheral_and_sentences", "peripheral", "Peripheral arteries"),
    ("24_peripheral_and_sentences", "lesion_sentences", "Lesions in sentences"),
)


def noted(manifests: Mapping[str, Mapping]) -> list[tuple[str, list[str]]]:
    """(title, sentences) of every conclusion of the audits and extensions in `manifests`; one that drew none says so."""
    found = []
    for notebook, key, title in NOTED:
        if notebook in manifests:
            manifest = manifests[notebook]
            told = (manifest.get("facts") or {}).get(key) or manifest.get("reason") or "No conclusion was drawn."
            found.append((title, [told] if isinstance(told, str) else list(told)))
    return found


def banner(ws: Workspace) -> list[str]:
    """What kind of data stands behind the run, in sentences that come before any result."""
    ratings = ((ws.manifest("06_reader_analysis") or {}).get("facts") or {}).get("source")
    sentences = [
        "Phantom run: every frame behind these results is simulated, no patient was imaged. The published column is the paper's, from clinical data."
        if is_phantom(ws)
        else "Archive run: the frames come from the DICOM archive that was given to this run."
    ]
    return [*sentences, RATING_SOURCES[ratings]] if ratings else sentences


def is_phantom(ws: Workspace) -> bool:
    """Whether the run's own phantom archive was curated (an archive that was given is no artifact of the run)."""
    curation = ws.manifest("01_curation") or {"inputs": {}}
    return "archive" in curation["inputs"] or ws.manifest("00_phantom_archive") is not None


def answer(study: Study, manifests: Mapping[str, Mapping]) -> list[tuple[str, str]]:
    """(subject, sentence) lines with which the report opens: is the run whole, what was found, what is simulated. What a run lacks has no line."""
    lines = [
        ("Run", complete(study.ws, manifests)),
        ("Archive", _archive(study, manifests)),
        ("Classifier", _classifier(manifests)),
        ("Distance", _distance(study)),
        ("Readers", _readers(study, manifests)),
        ("Audits", _parts(manifests, AUDITS, "make audits")),
        ("Extensions", _parts(manifests, EXTENSIONS, "make extensions")),
        ("The paper", _paper(study)),
    ]
    return [(subject, sentence) for subject, sentence in lines if sentence]


def complete(ws: Workspace, manifests: Mapping[str, Mapping]) -> str:
    """Whether every notebook of the study has finished, and if not, what the first that has not says."""
    expected = [n for n in REPRODUCED if n != "90_report" and (n != "00_phantom_archive" or is_phantom(ws))]
    finished = [name for name in expected if manifests.get(name, {}).get("status") == "finished"]
    if len(finished) == len(expected):
        return f"Complete: all {len(expected)} notebooks of the study finished."
    first = next(name for name in expected if name not in finished)
    reason = manifests.get(first, {}).get("reason") or "has not run."
    return f"Not complete: {len(finished)} of {len(expected)} notebooks of the study finished. First missing: {first}: {reason}"


def _archive(study: Study, manifests: Mapping) -> str:
    flow = manifests.get("01_curation", {"facts": {}})["facts"].get("flow")
    if not flow:
        return ""
    kind = "simulated " if is_phantom(study.ws) else ""
    told = f"{flow['series kept']:,} of {flow['series read']:,} {kind}series included, of {flow['patients']:,} patients"
    total = _cell(study, "table1", "Total", "Count")
    return f"{told}; {total:,.0f} arterial frames." if total is not None else f"{told}."


def _classifier(manifests: Mapping) -> str:
    facts = manifests.get("02_classifier", {"facts": {}})["facts"]
    published = facts.get("metrics_published", {})
    for row in facts.get("metrics") or []:
        if row.get("split") == "test":
            told = ", ".join(f"{name} {row[name]:.2f} (published {published[name]:.2f})" for name in published)
            return f"Arterial phase on test patients, against {row['reference']}: {told}."
    return ""


def _distance(study: Study) -> str:
    name = "tables/table5_context.csv"
    if not study.has(name):
        return ""
    context = pd.read_csv(study.read(name))
    overall = context[context["row"] == "This run, overall"]
    if overall.empty:
        return ""
    row = overall.iloc[0]
    doubt = (
        " It is marked as rank-deficient: compare it with the floor alone."
        if row["rank_deficient"] in (True, "True")
        else ""
    )
    return (
        f"{row['measure']} of {row['images']:,.0f} generated images to held-out frames: {_interval(row, 'value', '')}. "
        f"Floor (frames of training patients): {_interval(row, 'floor', 'floor_')}.{doubt}"
    )


def _interval(row: pd.Series, name: str, prefix: str, form: str = "{} [95 % {} to {}]", decimals: int = 1) -> str:
    told, low, high = (as_text(row[key], decimals) for key in (name, f"{prefix}low", f"{prefix}high"))
    return form.format(told, low, high) if low and high else told


INTERVALS = (
    "In brackets: 95 % intervals over patients; none where these are too few. "
    "*: no more images than feature dimensions, to be compared with the floor alone."
)


def with_intervals(shown: pd.DataFrame, context: pd.DataFrame) -> pd.DataFrame:
    """Table 5 of `published.as_printed` with the interval, the floor and the mark that table5_context.csv holds for each distance of this run."""
    shown, ours = shown.assign(floor=""), context[context["source"] != "published"].set_index("row")
    for row, label in shown.index:
        name = "This run, overall" if row.startswith("This run (") else row
        if label == "this run" and name in ours.index:
            line = ours.loc[name]
            mark = "*" if line["rank_deficient"] in (True, "True") else ""
            shown.loc[(row, label), line["measure"]] = _interval(line, "value", "", "{} [{}, {}]", 2) + mark
            shown.loc[(row, label), "floor"] = _interval(line, "floor", "floor_", "{} [{}, {}]", 2)
    return shown.rename(columns={"floor": "floor of the same size"})


def _readers(study: Study, manifests: Mapping) -> str:
    source = manifests.get("06_reader_analysis", {"facts": {}})["facts"].get("source")
    scored = _cell(study, "table2", "Total", "N_scored")
    if not source or scored is None:
        return ""
    kept = _cell(study, "table2", "Total", "N_keep")
    means = _column(study, "table3", "Overall mean")
    icc = _cell(study, "table4", "Overall", "All raters ICC(2,1)")
    told = f"{kept:,.0f} images kept, {scored:,.0f} scored ({source})"
    if len(means):
        told += f"; mean overall score by condition {means.min():.2f} to {means.max():.2f} of 5"
    return told + (f"; ICC(2,1) of all raters {icc:.2f}." if icc is not None else ".")


def _parts(manifests: Mapping, notebooks: tuple[str, ...], command: str) -> str:
    finished = [name for name in notebooks if manifests.get(name, {}).get("status") == "finished"]
    if not finished:
        return f"Not run ({command})."
    return f"{len(finished)} of {len(notebooks)} notebooks finished; their conclusions are below."


def _paper(study: Study) -> str:
    if not study.has("ledger.csv"):
        return ""
    found = ledger.findings(ledger.read_verdicts(study.read("ledger.csv")))["verdict"].value_counts()
    return (
        f"Of the numbers printed in the paper, {found.get(ledger.DISAGREES, 0)} disagree with its other numbers and "
        f"{found.get(ledger.DOUBT, 0)} are in doubt. This concerns the publication, not this run."
    )


def _cell(study: Study, table: str, row: str, column: str) -> float | None:
    values = _column(study, table, column)
    return float(values[row]) if row in values else None


def _column(study: Study, table: str, column: str) -> pd.Series:
    """This run's values of one column of a table, by row; empty where the run has none."""
    name = f"tables/{table}.csv"
    if not study.has(name):
        return pd.Series(dtype=float)
    frame = read_table(study.read(name))
    return frame[frame["column"] == column].set_index("row")["this_run"].dropna()
