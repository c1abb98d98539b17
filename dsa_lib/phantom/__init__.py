"""A phantom archive of cerebral angiography: simulated biplane runs written as ordinary multi-frame XA DICOM.

Nothing in this package is clinical data. The arteries are 3-D trees (named trunks as anatomical polylines, branching by
Murray's law below them), seen through the C-arm's cone beam, and filled by a bolus; the frames are raw and unsubtracted,
so that everything downstream has to do what it would do with a hospital's archive.

| module          | its one job                                                       |
|-----------------|-------------------------------------------------------------------|
| `anatomy.py`    | named arteries, veins, cortex and skull of one simulated patient  |
| `trees.py`      | a vessel tree: splines, growth over a territory, Murray's law     |
| `territories.py`| which tree an injection fills                                     |
| `bolus.py`      | contrast over time and the phase of every frame                   |
| `projection.py` | C-arm geometry, vessels and skull on the detector                 |
| `render.py`     | one run to raw frames of both planes, with its truth              |
| `plan.py`       | who is in the archive: patients, studies, series, conditions      |
| `archive.py`    | the plan to DICOM files, resumable and in parallel                |
| `truth.py`      | noise-free curated frames and calibre masks on their grid         |
| `measures.py`   | what frames look like in numbers, real or simulated               |
| `realism.py`    | the command that holds the phantom against real runs              |
"""

from dsa_lib.phantom.archive import write_archive
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.phantom.render import render_run

__all__ = ["plan_archive", "render_run", "write_archive"]
