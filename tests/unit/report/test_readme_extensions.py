"""README's words on the two neighbouring systems come from the run's own files."""

from types import SimpleNamespace

import pandas as pd
import pytest

from dsa_lib.core import published
from dsa_lib.lesions import lesion_scores
from dsa_lib.report import readme
from dsa_lib.run.errors import StudyError


@pytest.fixture
def ws(tmp_path):
    facts = {
        "21_maps_and_edges": {"scores": ["A is better."]},
        "22_map_edits": {"use": "Of use.", "edits": ["It follows."]},
        "23_lesion_post_training": {"lesions": ["Lower by 12 %."]},
        "24_peripheral_and_sentences": {"peripheral": [], "lesion_sentences": "Named in half."},
    }  # fmt: skip
    (tmp_path / "tables").mkdir()
    ours = {("LDM", "DSA-feature distance, w/ edges"): 12.34, ("LDM", "SSIM, w/ edges"): 0.9}
    ours |= {("LDM", "SSIM SD, w/ edges"): 0.05}
    published.write_table(tmp_path / "tables/maps_scores.csv", published.contract(published.ANATOMY, ours, "phantom"))
    rows = [{"row": "cLDM", "column": name, "published": None, "this_run": 1.5, "source": "phantom"} for name in ("MAE", "lesion MAE")]  # fmt: skip
    lesion_scores.write(tmp_path / "tables/lesions_scores.csv", pd.DataFrame(rows))
    return SimpleNamespace(
        run="r",
        root=tmp_path,
        manifest=lambda name: {"status": "finished", "facts": facts[name]} if name in facts else None,
    )


def test_the_source_s_table_has_published_and_own_values_in_columns_of_their_names(ws):
    block = readme.maps(ws)
    assert block.startswith("| published (ACDC) / phantom | FID | SSIM | NMSE | DSA-feature distance |")
    assert "| LDM w/ edges | 61.9 / – | 0.608 ± 0.123 / 0.9 ± 0.05 | 0.071 ± 0.035 / – | – / 12.3 |" in block
    assert block.count("| SPADE") == 4 and block.endswith("- It follows.")


def test_lesions_are_told_with_their_table(ws):
    block = readme.lesions(ws)
    assert "| cLDM | 1.5 | 1.5 |" in block and "- Lower by 12 %.\n- Named in half." in block


def test_a_notebook_that_has_not_finished_is_named(ws):
    with pytest.raises(StudyError, match="11_condition_adherence of the run 'r' has not finished"):
        readme.findings(ws)


def test_what_has_not_run_leaves_the_other_s_place_alone(ws):
    text = "<!-- maps:begin -->\nold\n<!-- maps:end -->\n<!-- lesions:begin -->\nold\n<!-- lesions:end -->\n"

    def ran(*notebooks):
        return SimpleNamespace(
            **{**vars(ws), "manifest": lambda name: ws.manifest(name) if name in notebooks else None}
        )

    filled = readme.extensions(text, ran("21_maps_and_edges", "22_map_edits"))
    assert "It follows." in filled and "<!-- lesions:begin -->\nold\n" in filled
    assert readme.extensions(text, ran("21_maps_and_edges")) == text, "a block tells of both its notebooks or stays"
    assert "old" not in readme.extensions(text, ws)


def test_a_block_of_two_notebooks_waits_for_both(ws, capsys):
    text = "<!-- lesions:begin -->\nold\n<!-- lesions:end -->\n"
    first = SimpleNamespace(**{**vars(ws), "manifest": lambda name: ws.manifest(name) if name[:2] == "23" else None})
    assert readme.extensions(text, first) == text
    assert "24_peripheral_and_sentences has not finished" in capsys.readouterr().out


def test_in_short_counts_the_comparisons_that_hold_on_all_measures():
    told = [
        "The true images through the autoencoder alone: SSIM 0.9.",
        "A against B: better on all 3 measures: yes. SSIM …",
        "A against C: better on all 3 measures: no. SSIM …",
    ]
    assert readme.in_short(told) == "In short, better on all measures in 1 of 2 comparisons: A against B."
    assert readme.in_short(told[::2]) == "In short, better on all measures in 0 of 1 comparisons."
