"""The results in README.md and docs/: tables, times and figures of one run, written between markers so that no number is retyped.

python -m dsa_lib.report.readme runs/phantom --verified runs/another
"""

import argparse
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.core.published import TITLES, as_in_paper, read_table
from dsa_lib.maps import map_scores
from dsa_lib.maps.models import METHODS, WITH, WITHOUT
from dsa_lib.report import html as html_report
from dsa_lib.report import verdicts, verify
from dsa_lib.run.artifacts import AUDITS
from dsa_lib.run.errors import StudyError
from dsa_lib.run.places import PROJECT, in_checkout
from dsa_lib.run.progress import duration
from dsa_lib.run.session import profile_of
from dsa_lib.run.workspace import Workspace, runs_folder
from dsa_lib.vessels.filters import CLASSES

PAGES = ("README.md", "docs/results.md", "docs/extensions.md", "docs/verify.md")
CLOCKS = PROJECT / "benchmarks" / "clocks.json"
QUALITY = PROJECT / "benchmarks" / "phantom_quality.json"
EXTENSION_FIGURES = ("maps_samples", "maps_spectra", "lesion_translations")
FIGURES = (
    *EXTENSION_FIGURES,
    "phantom_conditions",
    "figure1",
    "figure2",
    "figure3",
    "figure4",
    "figure5",
    "adherence",
    "classifier_confusion",
    "vae_reconstructions",
    "plausibility_examples",
)


def table(ws: Workspace, number: int) -> str:
    """Table `number` in Markdown, a line each for published, this run and difference. Raises StudyError where the run has none."""
    path = ws.root / f"tables/table{number}.csv"
    if not path.exists():
        raise StudyError(f"{path} is missing: finish the run {ws.run!r} first")
    frame = read_table(path)
    shown, context = as_in_paper(number, frame), ws.root / "tables/table5_context.csv"
    told = [html_report.REMARKS[number]] if number in (1, 3) else []
    if number == 5 and context.exists():
        shown, told = verdicts.with_intervals(shown, pd.read_csv(context)), [verdicts.INTERVALS]
    columns, groups = html_report.table_groups(shown)
    sources = ", ".join(source for source in dict.fromkeys(frame["source"]) if source)
    lines = [f"**Table {number} · {TITLES[number]}** (this run: {sources})", ""]
    lines += ["| | | " + " | ".join(columns) + " |", "|---|---|" + "---:|" * len(columns)]
    for group in groups:
        for place, line in enumerate(group["lines"]):
            name = group["name"] if place == 0 else ""
            lines.append(f"| {name} | {line['label']} | " + " | ".join(line["cells"]) + " |")
    for sentence in told:
        lines += ["", sentence]
    return "\n".join(lines)


def results(ws: Workspace) -> str:
    """What kind of data stands behind the run, and its Tables 1–5."""
    return "\n\n".join([" ".join(verdicts.banner(ws)), *(table(ws, number) for number in TITLES)])


def times(measured: Mapping) -> str:
    """Wall time of each command, the slowest notebooks, memory and disk, from the content of `benchmarks/clocks.json`."""
    first, disk = measured["reproduce"], measured["disk"]
    slow = sorted(first["notebooks"].items(), key=lambda item: -item[1])[:3]
    told = ", ".join(f"`{name}` {duration(seconds)}" for name, seconds in slow)
    lines = [f"| `make {name}` | {duration(entry['seconds'])} |" for name, entry in measured.items() if name != "disk"]
    gigabytes = {name: f"{disk[f'{name}_bytes'] / 1e9:.1f} GB" for name in ("environment", "run")}
    return "\n".join(
        [
            "| command | time |",
            "|---|---:|",
            *lines,
            "",
            f"Measured by `benchmarks/clocks.py` on {first['cores']} cores ({first['processor']}). Slowest notebooks: {told}. Peak memory: "
            f"{first['peak_memory_bytes'] / 2**30:.1f} GiB. Disk: environment {gigabytes['environment']}, run with audits {gigabytes['run']}.",
        ]
    )


def quality(measured: Mapping) -> str:
    """How good the phantom models are, a line a measure, from the content of `benchmarks/phantom_quality.json`."""
    decoder, distance = measured["autoencoder against the truth"], measured["DSA-feature distance"]
    named, areas = measured["condition named right"], measured["vessels, area, generated / held-out"]
    rates = ", ".join(f"{cell} {100 * named[cell]:.0f}" for cell in CELLS)
    distances = f"{distance['ldm']:.1f} conditional, {distance['ldm_unconditional']:.1f} unconditional; floor {distance['floor']:.1f}"
    nearer = distance["draws in which conditional is nearer than unconditional"]

    def kept(measure: str) -> str:
        return " / ".join(f"{100 * decoder[f'{measure} {calibre}']:.0f}" for calibre in CLASSES) + " %"

    rows = [
        (f"decoded frames against noise-free frames ({decoder['frames']})", f"PSNR {decoder['psnr_truth_db']:.1f} dB"),
        ("vessel contrast preserved, over the vessel area", kept("area")),
        ("vessel contrast preserved, along the darkest line of each vessel", kept("ridge")),
        (f"correct condition ({named['images']} generated frames)", f"{100 * named['overall']:.1f} %; {rates}"),
        (f"distance to held-out frames ({distance['images']} images)", distances),
        ("conditional model closer than unconditional", f"in {nearer} of {distance['draws']} draws of the reference"),
        ("vessel area, generated / held-out", " / ".join(f"{areas[calibre]['ratio']:.2f}" for calibre in CLASSES)),
    ]
    lines = [f"| {what} | {value} |" for what, value in rows]
    return "\n".join(["| measured on phantom patients outside all training sets | |", "|---|---|", *lines])


def findings(ws: Workspace) -> str:
    """The sentences that the audits computed in this run, a list item each. Raises StudyError where one of them has not finished."""
    manifests = {name: {"facts": finished(ws, name)} for name in AUDITS}
    return "\n".join(f"- *{title}.* " + " ".join(told) for title, told in verdicts.noted(manifests))


# ---- the two neighbouring systems ------------------------------------------------------------------------------------


def maps(ws: Workspace) -> str:
    """What notebooks 21 and 22 found: the source's table, published beside ours, and the sentences. Raises StudyError where one has not finished."""
    facts = finished(ws, "21_maps_and_edges") | finished(ws, "22_map_edits")
    grid = map_scores.shown(read_table(ws.root / "tables/maps_scores.csv"))
    measures = list(grid[WITH].columns)
    lines = ["| published (ACDC) / phantom | " + " | ".join(measures) + " |", "|---|" + "---:|" * len(measures)]
    for half in (WITH, WITHOUT):
        for method in METHODS:
            cells = (grid.loc[method, (half, measure)].replace(" | ", " / ") for measure in measures)
            lines.append(f"| {method} {half} | " + " | ".join(cells) + " |")
    told = [f"- {sentence}" for sentence in (*facts["scores"], facts["use"], *facts["edits"])]
    return "\n".join([*lines, "", in_short(facts["scores"]), "", *told])


def in_short(verdicts: list[str]) -> str:
    """One sentence on the comparisons among `verdicts` (those of `map_scores.verdicts`; other sentences are passed over)."""
    compared = [line for line in verdicts if re.search(r"better on all \d measures: (yes|no)\.", line)]
    whole = [line.split(":")[0] for line in compared if "measures: yes." in line]
    which = f": {'; '.join(whole)}" if whole else ""
    return f"In short, better on all measures in {len(whole)} of {len(compared)} comparisons{which}."


def lesions(ws: Workspace) -> str:
    """What notebooks 23 and 24 found in this run, as `maps`."""
    compared, asked = (finished(ws, name) for name in ("23_lesion_post_training", "24_peripheral_and_sentences"))
    frame = read_table(ws.root / "tables/lesions_scores.csv")
    columns = list(dict.fromkeys(frame["column"]))
    lines = ["| phantom | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for model, rows in frame.groupby("row", sort=False):
        value = rows.set_index("column")["this_run"]
        lines.append(f"| {model} | " + " | ".join(f"{value[name]:.3g}" for name in columns) + " |")
    told = [f"- {sentence}" for sentence in (*compared["lesions"], *asked["peripheral"], asked["lesion_sentences"])]
    return "\n".join([*lines, "", *told])


# Block of the pages, the notebooks that it tells of, and what writes it.
EXTENSIONS = (
    ("maps", ("21_maps_and_edges", "22_map_edits"), maps),
    ("lesions", ("23_lesion_post_training", "24_peripheral_and_sentences"), lesions),
)


def extensions(text: str, ws: Workspace) -> str:
    """`text` with the blocks of those extensions whose notebooks have all finished in this run."""
    for name, notebooks, block in EXTENSIONS:
        unfinished = [each for each in notebooks if (ws.manifest(each) or {}).get("status") != "finished"]
        if unfinished:
            print(f"{unfinished[0]} has not finished in this run: what is written of {name} stays as it is.")
        else:
            text = fill(text, name, block(ws))
    return text


def finished(ws: Workspace, notebook: str) -> dict:
    """The facts that a finished notebook of the run noted. Raises StudyError for one that has not finished."""
    manifest = ws.manifest(notebook)
    if manifest is None or manifest["status"] != "finished":
        raise StudyError(f"notebook {notebook} of the run {ws.run!r} has not finished: finish the run first")
    return manifest["facts"]


def fill(text: str, name: str, block: str) -> str:
    """`text` with what stands between `<!-- name:begin -->` and `<!-- name:end -->` replaced by `block`. Raises StudyError without the markers."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    if not pattern.search(text):
        raise StudyError(f"the page has no markers '{name}': restore it from version control")
    return pattern.sub(lambda match: f"{match[1]}{block}\n{match[2]}", text)


def verified(ws: Workspace) -> str:
    """What `make verify` says of a run, and what it was made on; or why it cannot be compared."""
    try:
        told = verify.sentence(ws.run, profile_of(ws, "01_curation").name, verify.compare(ws))
    except StudyError as error:
        return f"Not compared: {error}."
    made_on = json.loads((ws.root / "provenance" / "04_ldm.json").read_text())["environment"]["device"]
    return f"{told} It was made on: {made_on}."


BLOCKS = {
    "times": lambda ws: times(json.loads(CLOCKS.read_text())),
    "table5": lambda ws: table(ws, 5),
    "results": results,
    "quality": lambda ws: quality(json.loads(QUALITY.read_text())),
    "findings": findings,
}


def filled(text: str, ws: Workspace, other: Workspace) -> str:
    """A page with each block that it has markers for; `other` is the run that is held against the reference."""
    if "<!-- verify:begin -->" in text:
        text = fill(text, "verify", verified(other))
    for name, block in BLOCKS.items():
        if f"<!-- {name}:begin -->" in text:
            text = fill(text, name, block(ws))
    return extensions(text, ws) if "<!-- lesions:begin -->" in text else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the run, as its name or its folder")
    parser.add_argument(
        "--verified", help="the run to hold against the reference, which should not be one of those behind it"
    )
    request = parser.parse_args()
    ws = Workspace(Path(request.run).name)
    other = Workspace(Path(request.verified or request.run).name)
    if not ws.root.is_dir():
        raise SystemExit(f"error: there is no run {ws.run!r} in {runs_folder()}")
    try:
        pages = {path: filled(in_checkout(PROJECT / path).read_text(), ws, other) for path in PAGES}
    except StudyError as error:
        raise SystemExit(f"error: {error}") from None
    for path, text in pages.items():
        (PROJECT / path).write_text(text)
        print(path)
    (PROJECT / "figures").mkdir(exist_ok=True)
    for name in FIGURES:
        source = ws.root / "figures" / f"{name}.png"
        if source.exists():
            shutil.copy(source, PROJECT / "figures" / source.name)
            print(f"figures/{source.name}")


if __name__ == "__main__":
    main()
