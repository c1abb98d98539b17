"""Conditions against the paper's sentence (§2.3), its canonical positions and the ±5° bins of Table 1."""

import itertools
import json

import pytest

from dsa_lib.core.condition_sentences import (
    CANONICAL,
    CELLS,
    LESIONS,
    PAIRED_ARTERIES,
    SIDES,
    Condition,
    Finding,
    SeenConditions,
    parse_sentence,
    sentence_words,
)
from dsa_lib.run.errors import StudyError


def test_sentence_is_the_published_template():
    assert (
        Condition("anterior", "A", 0, 0).sentence()
        == "This is an anterior DSA scan taken in Plane A, with a primary angle of 0° and a secondary angle of 0°."
    )
    assert Condition("posterior", "B", -90, 0).sentence().startswith("This is a posterior DSA scan taken in Plane B, ")


def test_the_four_canonical_conditions():
    assert CELLS == ("AC A", "PC A", "AC B", "PC B")
    assert [(c.primary_angle_deg, c.secondary_angle_deg) for c in CANONICAL.values()] == [
        (0, 0),
        (0, 0),
        (-90, 0),
        (-90, 0),
    ]
    assert all(condition.cell() == cell for cell, condition in CANONICAL.items())


@pytest.mark.parametrize(
    "plane, primary, secondary, cell",
    [
        ("A", 0, 0, "AC A"),
        ("A", 5, -5, "AC A"),  # both ends of the bin belong to it
        ("A", 5.1, 0, "Others"),
        ("A", 0, 5.1, "Others"),
        ("A", -90, 0, "Others"),  # plane B's position, taken with plane A
        ("B", -85, 0, "AC B"),
        ("B", -95.5, 0, "Others"),
        ("B", 90, 0, "Others"),
        ("B", 0, 0, "Others"),
    ],
)
def test_cells_of_table_1(plane, primary, secondary, cell):
    assert Condition("anterior", plane, primary, secondary).cell() == cell


def test_small_deviations_share_one_sentence_and_larger_ones_keep_their_angles():
    assert Condition("anterior", "A", 3.2, -2).sentence() == CANONICAL["AC A"].sentence()
    assert "primary angle of -32° and a secondary angle of 18°" in Condition("anterior", "A", -32.4, 18.3).sentence()


def test_sentences_can_be_read_back():
    for circulation, plane, primary, secondary in itertools.product(
        ("anterior", "posterior"), "AB", range(-180, 181, 15), (-40, 0, 25)
    ):
        condition = Condition(circulation, plane, primary, secondary)
        parsed = parse_sentence(condition.sentence())
        assert parsed.sentence() == condition.sentence()
        assert (parsed.circulation, parsed.plane) == (circulation, plane)


def test_words_cover_every_sentence_of_the_grammar():
    import re

    words = set(sentence_words())
    sentence = Condition("posterior", "B", -137, 46).sentence()
    assert set(re.findall(r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]", sentence)) <= words


@pytest.mark.parametrize(
    "arguments",
    [("venous", "A", 0, 0), ("anterior", "C", 0, 0), ("anterior", "A", 181, 0), ("anterior", "A", float("nan"), 0)],
)
def test_what_is_no_condition_is_refused(arguments):
    with pytest.raises(StudyError):
        Condition(*arguments)


def test_free_text_is_refused_with_an_example():
    with pytest.raises(StudyError, match="write it like"):
        parse_sentence("a nice angiogram")


def test_seen_conditions_are_those_within_five_degrees_of_a_training_frame():
    seen = SeenConditions.of(
        [Condition("anterior", "A", p, s).sentence() for p, s in ((0, 0), (-32, 18), (176, 0))]
        + [CANONICAL["PC B"].sentence()]
    )
    assert SeenConditions.from_config(json.loads(json.dumps(seen.to_config()))).angles == seen.angles
    assert seen.to_config() == {"anterior A": "-32/18 0/0 176/0", "posterior B": "-90/0"}
    yes = [("anterior", "A", 3, -4), ("anterior", "A", -37, 13), ("anterior", "A", -179, 0), ("posterior", "B", -88, 2)]
    no = [("anterior", "A", -38, 18), ("anterior", "A", -32, 24), ("anterior", "B", 0, 0), ("posterior", "A", 0, 0)]
    assert all(seen.covers(Condition(*one)) for one in yes) and not any(seen.covers(Condition(*one)) for one in no)
    near = seen.nearest(Condition("anterior", "A", -40, 30))
    assert [condition.canonical_angles() for condition in near] == [(-32, 18), (0, 0), (176, 0)]
    assert seen.nearest(Condition("posterior", "A", -90, 0), 1) == [Condition("posterior", "B", -90, 0)]


FINDINGS = [
    *(Finding(*parts) for parts in itertools.product(LESIONS, SIDES, PAIRED_ARTERIES)),
    *(Finding(lesion, "", "basilar artery") for lesion in LESIONS),
]


def test_a_finding_goes_on_after_the_angles_and_is_read_back():
    condition = Condition("anterior", "B", -90, 0, Finding("aneurysm", "left", "middle cerebral artery"))
    assert condition.sentence() == (
        "This is an anterior DSA scan taken in Plane B, with a primary angle of -90° and a secondary angle of 0°, "
        "showing an aneurysm of the left middle cerebral artery."
    )
    for finding in FINDINGS:
        condition = Condition("posterior", "A", 12, -7, finding)
        assert parse_sentence(condition.sentence()) == condition
        assert condition.cell() == "Others"


def test_words_of_findings_follow_the_others():
    plain, whole = sentence_words(), sentence_words(findings=True)
    assert whole[: len(plain)] == plain and len(set(whole)) == len(whole)
    text = " ".join(finding.text() for finding in FINDINGS) + " showing an a"
    assert set(text.split()) <= set(whole)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tumour", "left", "middle cerebral artery"),
        ("aneurysm", "left", "aorta"),
        ("aneurysm", "", "middle cerebral artery"),
        ("aneurysm", "left", "basilar artery"),
        ("aneurysm", "both", "middle cerebral artery"),
    ],
)
def test_what_is_no_finding_is_refused(arguments):
    with pytest.raises(StudyError, match=r"correct the finding|has no side"):
        Finding(*arguments)


def test_a_finding_must_have_been_seen_too():
    one = Condition("anterior", "A", 0, 0, Finding("aneurysm", "left", "middle cerebral artery"))
    other = Condition("anterior", "A", 0, 0, Finding("stenosis", "left", "middle cerebral artery"))
    seen = SeenConditions.of([CANONICAL["AC A"].sentence(), one.sentence()])
    assert SeenConditions.from_config(json.loads(json.dumps(seen.to_config()))).angles == seen.angles
    assert seen.covers(one) and seen.covers(CANONICAL["AC A"]) and not seen.covers(other)
    assert seen.nearest(other, 2) == [CANONICAL["AC A"], one]
    with pytest.raises(StudyError, match="stenosis of the left middle cerebral artery"):
        seen.require([other])
