"""README's results: the tables, times and figures of one run, written between README's markers so that no number is retyped.

python -m dsa_lib.readme runs/phantom
"""

import argparse
import json
import re
import shutil
from pathlib import Path

from dsa_lib import report
from dsa_lib.errors import StudyError
from dsa_lib.tables import TITLES, read_table
from dsa_lib.workspace import NOTEBOOKS, PROJECT, Workspace, runs_folder

FIGURES = ("phantom_conditions", "figure1", "figure2", "figure4", "faithfulness", "classifier_confusion")


def results(ws: Workspace) -> str:
    """Tables 1–5 in Markdown, a line each for published, this run and difference."""
    parts = [" ".join(report.banner(ws))]
    for number, title in TITLES.items():
        path = ws.root / f"tables/table{number}.csv"
        if not path.exists():
            raise StudyError(f"{path} is missing: finish the run {ws.run!r} first")
        frame = read_table(path)
        columns, groups = report.table_groups(number, frame)
        sources = ", ".join(source for source in dict.fromkeys(frame["source"]) if source)
        lines = [f"**Table {number} · {title}** (this run: {sources})", ""]
        lines += ["| | | " + " | ".join(columns) + " |", "|---|---|" + "---:|" * len(columns)]
        for group in groups:
            for place, line in enumerate(group["lines"]):
                name = group["name"] if place == 0 else ""
                lines.append(f"| {name} | {line['label']} | " + " | ".join(line["cells"]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def times(ws: Workspace) -> str:
    """Wall time of each notebook, and the run's total and peak memory."""
    lines = ["| notebook | time |", "|---|---:|"]
    for name in NOTEBOOKS:
        path = ws.root / "provenance" / f"{name}.json"
        if path.exists():
            lines.append(f"| {name} | {report.duration(json.loads(path.read_text())['seconds'])} |")
    return "\n".join(lines) + f"\n\nRun `{ws.run}`: {report.cost(ws)}"


def fill(text: str, name: str, block: str) -> str:
    """`text` with what stands between `<!-- name:begin -->` and `<!-- name:end -->` replaced by `block`. Raises StudyError without the markers."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    if not pattern.search(text):
        raise StudyError(f"README.md has no markers '{name}': restore it from version control")
    return pattern.sub(lambda match: f"{match[1]}{block}\n{match[2]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the run, as its name or its folder")
    ws = Workspace(Path(parser.parse_args().run).name)
    if not ws.root.is_dir():
        raise SystemExit(f"error: there is no run {ws.run!r} in {runs_folder()}")
    path = PROJECT / "README.md"
    try:
        text = fill(fill(path.read_text(), "results", results(ws)), "times", times(ws))
    except StudyError as error:
        raise SystemExit(f"error: {error}") from None
    path.write_text(text)
    (PROJECT / "figures").mkdir(exist_ok=True)
    for name in FIGURES:
        source = ws.root / "figures" / f"{name}.png"
        if source.exists():
            shutil.copy(source, PROJECT / "figures" / source.name)
            print(f"figures/{source.name}")
    print("README.md")


if __name__ == "__main__":
    main()
