"""Mutated files end neither in a crash nor in a hang; the large run is `python tests/support/fuzz_xa.py --count 2000`."""

from fuzz_xa import fuzz


def test_mutated_files_are_read_or_quarantined(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    outcomes, faults = fuzz(tmp_path, 250, seed=20)
    assert faults == []
    reasons = {reason for _, reason in outcomes}
    assert {"kept", "the pixel data cannot be decoded", "not a DICOM file", "the DICOM header is damaged"} <= reasons
    assert outcomes["deflate_bomb", "reading it takes more memory than one file may"]
    assert outcomes["harmless", "kept"] > 5
