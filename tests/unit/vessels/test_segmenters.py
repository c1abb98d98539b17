"""Which segmenter a profile names, what is said of it, and whom it may not judge."""

import numpy as np
import pandas as pd
import pytest
from folder_run import FolderRun

from dsa_lib.run.errors import StudyError
from dsa_lib.vessels import segmenters
from dsa_lib.vessels import unet as vessel_unet


def test_segmenters_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(StudyError, match="not network or classical"):
        segmenters.open_segmenter("frangi", None)
    with pytest.raises(StudyError, match="does not hold a vessel network"):
        segmenters.open_segmenter("network", None, tmp_path)
    model = vessel_unet.build_network((4, 4, 4, 4, 4, 4))
    vessel_unet.save(model, tmp_path / "net", {"size": 32, "patients": ["PHANTOM-1-0001"]})
    with pytest.raises(StudyError, match=r"PHANTOM-1-0001.*another seed, or set plausibility.segmenter"):
        segmenters.open_segmenter("network", ["PHANTOM-1-0001"], tmp_path / "net")
    assert "clinical" in segmenters.open_segmenter("network", None, tmp_path / "net").says
    found = segmenters.open_segmenter("network", ["PHANTOM-2-0001"], tmp_path / "net")
    assert "none of this archive" in found.says
    assert found.segment(np.full((2, 64, 64), 162, np.uint8), "frames").shape == (2, 64, 64)


def test_patients_that_the_network_was_trained_on_are_refused_for_a_run(tmp_path):
    study = FolderRun(tmp_path)
    assert study.profile.plausibility.segmenter == "network"
    assert "none of this archive" not in segmenters.of_run(study).says  # no truth: no phantom archive
    _, card = vessel_unet.load()
    pd.DataFrame({"patient_id": card["patients"][:1]}).to_parquet(tmp_path / "archive_truth.parquet")
    with pytest.raises(StudyError, match="were seen in training the vessel network"):
        segmenters.of_run(study)


def test_dice_on_known_vessels_are_those_of_the_benchmark():
    table = segmenters.dice_on_known_vessels()
    assert list(table.index) == ["network", "classical"] and table.to_numpy().min() > 0 and table.to_numpy().max() < 1
    assert (
        f"vessel {table.loc['network', ('acquired', 'vessel')]:.2f}" in segmenters.open_segmenter("network", None).says
    )
