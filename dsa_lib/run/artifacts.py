"""The notebooks of the study, what each one waits for, and which artifacts it writes: one registry for messages, workflow and report.

The registry is `data_manifests/artifacts.csv`: notebook, artifact (a path inside the run; `*` and `?` as in a shell), the notebooks that read it, and
for what the report shows a title and a remark.
"""

import csv
import functools
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dsa_lib.run.places import PROJECT

STUDY = (
    "00_phantom_archive",
    "01_curation",
    "02_classifier",
    "03_vae",
    "04_ldm",
    "05_sampling",
    "06_reader_analysis",
    "07_fid",
)
# What goes on from the study, each part by a make target of its name.
AUDITS = ("11_condition_adherence", "12_vessel_plausibility", "13_memorisation", "14_utility")
EXTENSIONS = ("21_maps_and_edges", "22_map_edits", "23_lesion_post_training", "24_peripheral_and_sentences")
PAPER = ("31_paper_numbers",)
REPORT = ("90_report",)
EVERY = (*STUDY, *AUDITS, *EXTENSIONS, *PAPER, *REPORT)
REPRODUCED = (*STUDY, *PAPER, *REPORT)  # make reproduce
PARTS = {"audits": AUDITS, "extensions": EXTENSIONS}
# A notebook waits for these; what lies further upstream follows from them. The report waits for all that run.
UPSTREAM = {
    "00_phantom_archive": (),
    "01_curation": ("00_phantom_archive",),
    "02_classifier": ("01_curation",),
    "03_vae": ("02_classifier",),
    "04_ldm": ("03_vae",),
    "05_sampling": ("04_ldm",),
    "06_reader_analysis": ("05_sampling",),
    "07_fid": ("05_sampling",),
    "11_condition_adherence": ("07_fid",),
    "12_vessel_plausibility": ("05_sampling",),
    "13_memorisation": ("07_fid",),
    "14_utility": ("05_sampling",),
    "21_maps_and_edges": ("07_fid",),
    "22_map_edits": ("21_maps_and_edges",),
    "23_lesion_post_training": ("07_fid",),
    "24_peripheral_and_sentences": ("23_lesion_post_training",),
    "31_paper_numbers": ("06_reader_analysis",),
    "90_report": EVERY[:-1],
}


@dataclass(frozen=True)
class Artifact:
    """One line of the registry; `title` and `remark` are empty where the report does not show it.

    `read_by`: numbers of the notebooks that may read it, between spaces; the report reads whatever has a title.
    """

    notebook: str
    artifact: str
    read_by: str
    title: str
    remark: str


@functools.cache
def registry() -> tuple[Artifact, ...]:
    """All artifacts, in the order of the notebooks."""
    with (PROJECT / "data_manifests" / "artifacts.csv").open(newline="") as file:
        return tuple(Artifact(**row) for row in csv.DictReader(file))


@functools.cache
def find(name: str) -> Artifact | None:
    """The line of the artifact `name` (a path inside the run, or below one that is registered); None where there is none."""
    for line in registry():
        if fnmatchcase(name, line.artifact) or fnmatchcase(name, line.artifact + "/*"):
            return line
    return None
