"""The real subtracted lateral run beside the project, through the same code. Skipped where it is missing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dsa_lib.curation import cohort
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import PROJECT, Workspace

ARCHIVE = PROJECT.parent / "shared" / "real_dsa"
pytestmark = pytest.mark.skipif(
    not (ARCHIVE / "gendsa_2d_head.dcm").exists(),
    reason="the real run ../shared/real_dsa/gendsa_2d_head.dcm is not beside the project: nothing to curate",
)
# Frames from 0, well inside the phases that were read by eye (README of the data; its borders are good to about two frames).
BEFORE, ARTERIAL, VENOUS = range(1, 6), range(16, 34), range(47, 74)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSA_RUNS", str(folder))
        workspace = Workspace("real")
        found = cohort.curate(ARCHIVE, workspace, Curation(image_size=256, workers=1), seed=1)
        return found, np.load(workspace.path("frames.npy")), pd.read_parquet(workspace.path("frames.parquet"))


def test_header_facts(run):
    found, frames, table = run
    row = found.series.iloc[0]
    assert (row["circulation"], row["plane"], row["matched_term"], row["relationship"]) == (
        "anterior",
        "B",
        "cca",
        "DISP",
    )
    assert (row["primary_angle_deg"], row["frame_time_ms"]) == (-90.0, 166.0)
    assert frames.shape == (74, 256, 256)
    assert table["time_s"].iloc[-1] == pytest.approx(73 * 0.166)


def test_it_looks_like_dsa(run):
    _, frames, _ = run
    values, counts = np.unique(frames, return_counts=True)
    assert abs(int(values[counts.argmax()]) - 162) <= 1  # background
    dark = (frames < 162 - 25).mean((1, 2))
    assert dark[list(BEFORE)].max() < 0.002  # nothing before contrast
    assert 0.01 < dark[list(ARTERIAL)].mean() < 0.12  # vessels, not blobs
    assert (frames > 162 + 25).mean() < 0.003  # vessels are dark


def test_letterbox_is_cropped_and_the_field_squared(run):
    _, frames, _ = run
    margin = round(256 * (1 - 788 / 1024) / 2) - 2  # 788 of 1,024 columns are exposed
    assert np.unique(frames[:, :, :margin]).tolist() == [162]
    assert np.unique(frames[:, :, -margin:]).tolist() == [162]
    assert frames[:, :, 128].std() > 1


def test_contrast_moves_from_the_neck_to_the_vertex(run):
    _, frames, _ = run
    contrast = np.clip(162.0 - frames, 0, None)
    rows = np.arange(256)

    def height(chosen) -> float:
        profile = contrast[list(chosen)].sum((0, 2))
        return float((profile * rows).sum() / profile.sum())

    assert height(range(9, 13)) > height(ARTERIAL) > height(VENOUS)
