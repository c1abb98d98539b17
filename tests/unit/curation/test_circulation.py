"""Vessel vocabulary: clinical short forms against hand-assigned circulations."""

import pytest

from dsa_lib.curation.circulation import match_circulation, read_by_hand, read_vocabulary
from dsa_lib.run.errors import StudyError

TERMS = read_vocabulary()


@pytest.mark.parametrize(
    ("text", "circulation", "term"),
    [
        ("ICA rechts", "anterior", "ica"),
        ("ACI li", "anterior", "aci"),
        ("ACIre 2", "anterior", "aci"),
        ("A. carotis interna links", "anterior", "carotis interna"),
        ("ACC_re", "anterior", "acc"),
        ("CCA lateral", "anterior", "cca"),
        ("LICA run 3", "anterior", "lica"),
        ("MCA-M1 re", "anterior", "mca"),
        ("ACM", "anterior", "acm"),
        ("AV li", "posterior", "av"),
        ("VA right", "posterior", "va"),
        ("VA1", "posterior", "va"),
        ("Vert. li", "posterior", "vert"),
        ("AVre", "posterior", "avre"),
        ("A. basilaris", "posterior", "basilaris"),
        ("PCA", "posterior", "pca"),
        ("Vértebralis", "posterior", "vertebralis"),
        ("AV-Fistel ACI re", "anterior", "aci"),
    ],
)
def test_short_forms(text, circulation, term):
    match = match_circulation((text,), TERMS)
    assert (match.circulation, match.term, match.reason) == (circulation, term, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ECA re", "other territory: external carotid artery"),
        ("ACE li", "other territory: external carotid artery"),
        ("A. carotis externa", "other territory: external carotid artery"),
        ("Aortenbogen", "other territory: aortic arch"),
        ("Arch LAO", "other territory: aortic arch"),
        ("spinal Th8", "other territory: spinal arteries"),
        ("Femoralis re", "other territory: femoral artery"),
        ("Radialis re", "other territory: arm arteries"),
        ("Nierenarterie li", "other territory: renal artery"),
        ("ICA + ECA", "contradictory vessels named: annotate by hand"),
        ("VA / ICA", "contradictory vessels named: annotate by hand"),
        ("AV-Fistel", "no vessel named: annotate by hand"),
        ("Vati Bacardi", "no vessel named: annotate by hand"),  # "VA" and "BA" inside words do not count
        ("C-Bogen", "no vessel named: annotate by hand"),
        ("", "no vessel named: annotate by hand"),
    ],
)
def test_excluded(text, reason):
    match = match_circulation((text,), TERMS)
    assert match.circulation is None
    assert match.reason == reason


def test_protocol_and_body_part_are_read_and_must_agree():
    assert match_circulation(("", "Vertebralis 4 B/s", "HEAD"), TERMS).circulation == "posterior"
    assert match_circulation(("ICA", "Vertebralis 4 B/s", "HEAD"), TERMS).circulation is None
    assert match_circulation(("", "", "SPINE"), TERMS).reason == "other territory: spinal arteries"


def test_only_vocabulary_terms_are_recorded():
    match = match_circulation(("Mueller^Anna ICA rechts",), TERMS)
    assert match.term == "ica"
    assert "mueller" not in match.reason.lower()


def test_a_users_vocabulary_replaces_the_shipped_one(tmp_path):
    own = tmp_path / "own.csv"
    own.write_text("term,use,vessel,language\nKopfarterie,anterior,made-up artery,de\n")
    terms = read_vocabulary(own)
    assert match_circulation(("Kopfarterie li",), terms).circulation == "anterior"
    assert match_circulation(("ICA",), terms).circulation is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("term,use\nica,anterior\n", "lacks the column 'vessel'"),
        ("term,use,vessel,language\nica,front,x,en\n", "line 2 has use 'front'"),
        ("term,use,vessel,language\n,anterior,x,en\n", "line 2 has no term"),
        ("term,use,vessel,language\nica,anterior,x,en\nICA,exclude,x,en\n", "'ica' twice"),
    ],
)
def test_faults_in_a_vocabulary_are_named(tmp_path, text, words):
    own = tmp_path / "own.csv"
    own.write_text(text)
    with pytest.raises(StudyError, match=words):
        read_vocabulary(own)


def test_answers_by_hand(tmp_path):
    own = tmp_path / "answers.csv"
    own.write_text("series,sop_instance_uid,circulation\nS1,1.2.3,Anterior\nS2,1.2.4,exclude\nS3,1.2.5,\n")
    answers = read_by_hand(own)
    assert set(answers) == {"1.2.3", "1.2.4"}
    assert (answers["1.2.3"].circulation, answers["1.2.3"].term, answers["1.2.3"].reason) == ("anterior", "by hand", "")
    assert answers["1.2.4"].circulation is None and answers["1.2.4"].reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("series,circulation\nS1,anterior\n", "lacks the column 'sop_instance_uid'"),
        ("sop_instance_uid,circulation\n1.2.3,front\n", "line 2 has circulation 'front'"),
        ("sop_instance_uid,circulation\n1.2.3,anterior\n1.2.3,posterior\n", "line 3 contradicts an earlier line"),
    ],
)
def test_faults_in_answers_are_named(tmp_path, text, words):
    own = tmp_path / "answers.csv"
    own.write_text(text)
    with pytest.raises(StudyError, match=words) as fault:
        read_by_hand(own)
    assert "1.2.3" not in str(fault.value)


@pytest.mark.parametrize(("encoding", "separator"), [("utf-8", ","), ("utf-8-sig", ";"), ("cp1252", ";")])
def test_answers_as_spreadsheets_save_them(tmp_path, encoding, separator):
    rows = [["sop_instance_uid", "description", "circulation"], ["1.2.3", "Gef\u00e4\u00df links", "posterior"]]
    (tmp_path / "own.csv").write_bytes("\n".join(map(separator.join, rows)).encode(encoding))
    assert read_by_hand(tmp_path / "own.csv")["1.2.3"].circulation == "posterior"
