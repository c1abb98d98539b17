"""The report of a run in one self-contained HTML file: the answer first, then the paper's tables and figures, conclusions, and where all of it comes from.

Nothing is computed here and nothing retyped: the tables are the run's own files, checked against their recorded hashes.
"""

import base64
import html
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from PIL import Image

from dsa_lib.core.published import LARGEST_REMAINDER, TITLES, as_in_paper, read_table
from dsa_lib.paper import ledger
from dsa_lib.report import columns, verdicts
from dsa_lib.run import artifacts
from dsa_lib.run.artifacts import EVERY
from dsa_lib.run.progress import duration
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import Workspace, atomic_write

REMARKS = {
    1: LARGEST_REMAINDER,
    3: "Differences are those of the means.",
    5: "Published values come from different data and feature sets; no two rows may be compared, and a distance in other features is not an FID.",
}
NUMBERED = tuple(f"figures/figure{number}.png" for number in range(1, 6))  # the paper's, shown first
# Tables of more columns than this are set a row at a time where the page is narrow, the wider the sooner.
STACKED = (("widest", 15), ("wide", 8), ("medium", 5))
WIDEST, FURTHER = (
    1400,
    1000,
)  # pixels of an embedded figure of the paper, and of another; the run's files keep their own


def write_report(study: Study, path: Path, content: dict | None = None) -> None:
    """Write the HTML report of `study.run` to `path`; `content` as from `contents`, where it is at hand. A changed or stale upstream file raises StudyError."""
    import jinja2

    template = Path(__file__).with_name("report.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, trim_blocks=False, undefined=jinja2.StrictUndefined)
    content = environment.from_string(template).render(**(contents(study) if content is None else content))
    with atomic_write(path) as temporary:
        temporary.write_text(content)


def contents(study: Study) -> dict:
    """What the template shows, gathered from manifests, tables, figures and provenance of the run."""
    ws = study.ws
    others = [name for name in EVERY if name != study.notebook]
    manifests = {name: manifest for name in others if (manifest := ws.manifest(name))}
    return {
        "run": ws.run,
        "profile": study.profile.name,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "banner": verdicts.banner(ws),
        "answer": verdicts.answer(study, manifests),
        "tables": [_table(study, number) for number in TITLES],
        **_figures(study, manifests),
        "verdicts": verdicts.noted(manifests),
        "notebooks": [_status(ws, name) for name in others if name in manifests or _expected(ws, name)],
        "cost": cost(ws),
        "classifier": _classifier(study, manifests),
        "ledger": _ledger(study),
        "extras": _further(study),
        "provenance": _provenance(ws, manifests),
        "facts": [_facts(ws, name, manifest) for name, manifest in manifests.items()],
    }


def cost(ws: Workspace) -> str:
    """Time and peak memory so far, as measured by whoever launched the run; empty for notebooks run by hand."""
    path = ws.root / "provenance" / "run.json"
    if not path.exists():
        return ""
    invocations = json.loads(path.read_text())["invocations"]
    seconds = sum(entry["seconds"] for entry in invocations)
    peak = max(entry["peak_memory_bytes"] for entry in invocations)
    starts = f"{len(invocations)} starts" if len(invocations) > 1 else "one start"
    return (
        f"{duration(seconds)} of wall time in {starts}, peak memory of all processes together {peak / 2**30:.1f} GiB."
    )


def table_groups(shown: pd.DataFrame) -> tuple[list[str], list[dict]]:
    """A table of `published.as_printed` as (columns, groups): a group a row of the table with the lines published, this run and difference."""
    kinds = {"published": "published", "this run": "ours", "difference": "difference"}
    groups: dict[str, list[dict]] = {}
    for (row, label), cells in zip(shown.index, shown.to_numpy().tolist(), strict=True):
        groups.setdefault(row, []).append({"kind": kinds[label], "label": label, "cells": cells})
    return list(shown.columns), [{"name": row, "lines": lines} for row, lines in groups.items()]


def _table(study: Study, number: int) -> dict:
    entry = {"number": number, "title": TITLES[number], "remark": REMARKS.get(number, ""), "missing": ""}
    name = f"tables/table{number}.csv"
    if not study.has(name):
        return entry | {"missing": _why_missing(study.ws, name)}
    frame = read_table(study.read(name))
    sources = [source for source in dict.fromkeys(frame["source"]) if source]
    shown, context = as_in_paper(number, frame), "tables/table5_context.csv"
    if number == 5 and study.has(context):
        shown = verdicts.with_intervals(shown, pd.read_csv(study.read(context)))
        entry["remark"] += f" {verdicts.INTERVALS}"
    names, groups = table_groups(shown)
    return entry | {
        "columns": names,
        "groups": groups,
        "sources": f"This run, from: {', '.join(sources) or 'nothing, no cell could be computed'}.",
    }


def _why_missing(ws: Workspace, name: str) -> str:
    producer = ws.producer(name)
    manifest = ws.manifest(producer)
    if manifest is None:
        return f"notebook {producer} has not run."
    return manifest["reason"] or f"notebook {producer} did not write it."


def _status(ws: Workspace, notebook: str) -> dict:
    manifest = ws.manifest(notebook) or {"status": "not run", "reason": ""}
    path = ws.root / "provenance" / f"{notebook}.json"
    spent = duration(json.loads(path.read_text())["seconds"]) if path.exists() else ""
    return {"name": notebook, "status": manifest["status"], "time": spent, "reason": manifest["reason"] or ""}


def _expected(ws: Workspace, notebook: str) -> bool:
    return notebook != "00_phantom_archive" or verdicts.is_phantom(ws)


def _classifier(study: Study, manifests: dict) -> dict:
    facts = manifests.get("02_classifier", {}).get("facts", {})
    sentences = [str(line) for line in facts.get("arterial_spans", [])]
    if not study.has("classifier_metrics.csv"):
        return {"missing": _why_missing(study.ws, "tables/table1.csv"), "html": "", "sentences": sentences}
    try:
        scores = pd.read_csv(study.read("classifier_metrics.csv"))
    except pd.errors.EmptyDataError:
        scores = pd.DataFrame()
    if scores.empty:
        return {"missing": "neither truth nor annotations are known.", "html": "", "sentences": sentences}
    published = facts.get("metrics_published", {})
    split = {"train": "training", "val": "validation", "test": "held-out"}
    rows = [{"reference": "published", "patients": "hold-out validation", **published}]
    for row in scores.to_dict("records"):
        label = {"reference": row["reference"], "patients": split.get(row["split"], row["split"])}
        rows.append(label | {name: row[name] for name in published if name in row})
        if row["split"] == "test":
            rows.append({"reference": "", "patients": "difference", **{name: row[name] - published[name] for name in published if name in row}})  # fmt: skip
    return {"missing": "", "html": _html(pd.DataFrame(rows)), "sentences": sentences}


def _ledger(study: Study) -> dict:
    """The ledger of the paper's own numbers: findings, tally and every row; `missing` says why where there is none."""
    if not study.has("ledger.csv"):
        return {"missing": _why_missing(study.ws, "ledger.csv")}
    rows = ledger.read_verdicts(study.read("ledger.csv"))
    shown = rows.assign(residual=[_residual(value) for value in rows["residual"]])
    return {
        "missing": "",
        "frame": rows,
        "findings": ledger.findings(rows),
        "tally": ledger.tally(rows),
        "places": [(place, part.to_dict("records")) for place, part in shown.groupby("place", sort=False)],
        "flagged": (ledger.DISAGREES, ledger.DOUBT),
    }


def _residual(value: float) -> str:
    """Signed, to four significant digits; empty where there is none, or none to speak of beside the rounding of floats."""
    return "" if pd.isna(value) or abs(value) < 1e-9 else f"{value:+.4g}".replace("-", "−")


def _further(study: Study) -> list[dict]:
    found = []
    contract = {f"tables/table{number}.csv" for number in TITLES}
    for line in artifacts.registry():
        if line.title and line.artifact.endswith(".csv") and line.artifact not in contract and study.has(line.artifact):
            try:
                frame = pd.read_csv(study.read(line.artifact))
            except pd.errors.EmptyDataError:
                continue
            if len(frame):
                found.append({"title": line.title, "remark": line.remark, "html": _html(frame)})
    return found


def _html(frame: pd.DataFrame) -> object:
    """A DataFrame as a table element with readable headings; each cell names its column, for pages too narrow for the table."""
    from markupsafe import Markup

    frame, told = columns.shared(frame)
    shown = columns.readable(frame)
    kinds = ["" if columns.is_number(frame, name) else " class=text" for name in shown]
    names = [html.escape(name) for name in shown]
    head = "".join(f"<th{kind}>{name}</th>" for name, kind in zip(names, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f'<td{kind} data-label="{name}">{html.escape(cell)}</td>'
            for name, kind, cell in zip(names, kinds, row, strict=True)
        )
        + "</tr>"
        for row in shown.to_numpy().tolist()
    )
    size = next((f" class={name}" for name, most in STACKED if len(names) > most), "")
    note = f"<p class=soft>{html.escape(told)}</p>" if told else ""
    return Markup(f"{note}<table{size}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _figures(study: Study, manifests: Mapping) -> dict:
    """The paper's figures, then the others in the order of the notebooks; those without a title (panels, earlier states) are left out."""
    written = [name for manifest in manifests.values() for name in manifest["outputs"] if name.endswith(".png")]
    titles = {name: line.title for name in written if (line := artifacts.find(name)) and line.title}
    ratings = manifests.get("06_reader_analysis", {"facts": {}})["facts"].get(
        "source"
    )  # whose ratings Figures 3 and 4 show
    of_readers = NUMBERED[2:4]
    shown = {
        name: {
            "name": Path(name).stem,
            "caption": title + (f" · {ratings}" if name in of_readers and ratings else ""),
            "data": _embedded(study.read(name), WIDEST if name in NUMBERED else FURTHER),
        }
        for name, title in titles.items()
    }
    missing = [
        f"{artifacts.find(name).title.split(' · ')[0]} was not made: {_why_missing(study.ws, name)}"
        for name in NUMBERED
        if name not in titles
    ]
    return {
        "figures": [shown[name] for name in NUMBERED if name in shown],
        "missing_figures": missing,
        "further_figures": [figure for name, figure in shown.items() if name not in NUMBERED],
    }


def _embedded(path: Path, widest: int) -> str:
    """An image of the run as base64 WebP, at most `widest` pixels wide: a report of all figures stays small enough to send."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        if image.width > widest:
            image = image.resize((widest, round(image.height * widest / image.width)), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        image.save(content, "WEBP", quality=80, method=4)
    return base64.b64encode(content.getvalue()).decode()


def _provenance(ws: Workspace, manifests: dict) -> dict:
    """What all notebooks of the run share, and a row a notebook of when it started and what differs."""
    records = {
        name: json.loads(path.read_text())
        for name in manifests
        if (path := ws.root / "provenance" / f"{name}.json").exists()
    }
    names = list(dict.fromkeys(key for record in records.values() for key in record["environment"]))
    values = {key: [str(record["environment"].get(key, "")) for record in records.values()] for key in names}
    shared = {key: each[0] for key, each in values.items() if len(set(each)) == 1}
    varying = [key for key in names if key not in shared]
    rows = [
        [name, record["started"], *(str(record["environment"].get(key, "")) for key in varying)]
        for name, record in records.items()
    ]
    return {"shared": shared, "columns": ["notebook", "started", *varying], "rows": rows}


def _facts(ws: Workspace, notebook: str, manifest: dict) -> dict:
    path = ws.root / "provenance" / f"{notebook}.json"
    parameters = json.loads(path.read_text())["parameters"] if path.exists() else {}
    shown = {"parameters": parameters, "facts": manifest["facts"], "outputs": {k: v[:12] for k, v in manifest["outputs"].items()}}  # fmt: skip
    return {"name": notebook, "text": json.dumps(shown, indent=1, ensure_ascii=False)}
