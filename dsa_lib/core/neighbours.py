"""What the two neighbouring studies published, beside what this run finds: their tables in the form of `tables`.

anatomy_table1: Capitão et al., Table 1 (FID, SSIM and NMSE of ACDC). lesion_post_training: Lee et al. (DWI and ADC from CT perfusion of 817 patients); our text
of it has the metrics and the ranking and no figure, so that its published cells are empty and stay so.
"""

from collections.abc import Mapping

import pandas as pd

from dsa_lib.core.published import beside
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import PROJECT

ANATOMY, LESIONS = "anatomy_table1", "lesion_post_training"
REFERENCES = {
    ANATOMY: "Capitão et al., Table 1 (ACDC)",
    LESIONS: "Lee et al. (CT perfusion → DWI and ADC; no figures in our text)",
}
SOURCES = ("phantom", "archive", "ACDC", "CT perfusion")  # what `this_run` may have been computed from


def published(name: str) -> pd.DataFrame:
    """The cells of ANATOMY or LESIONS: columns row, column, published (NaN where our text has no figure), and `ranking` for LESIONS."""
    if name not in REFERENCES:
        raise StudyError(f"no published table {name!r}: choose {' or '.join(REFERENCES)}")
    return pd.read_csv(PROJECT / "data_manifests" / "neighbours" / f"{name}.csv")


def contract(name: str, this_run: Mapping[tuple[str, str], float], source: str) -> pd.DataFrame:
    """Every published cell of `name` and every further one of this run, columns row, column, published, this_run, source (`tables.write_table`).

    A distance in DSA features is no FID: give it a column of its own. Raises StudyError for a `source` that is not one of SOURCES.
    """
    if source not in SOURCES:
        raise StudyError(f"source {source!r} is not one of {', '.join(SOURCES)}: name what the table was computed from")
    return beside(published(name)[["row", "column", "published"]], this_run, source)
