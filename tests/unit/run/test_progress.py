"""Progress in a notebook: few plain lines, nothing swallowed."""

import re

from dsa_lib.run import progress


def test_track_yields_everything_and_stays_quiet_when_fast(capsys):
    assert list(progress.track(range(5), what="series")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out == ""


def test_lines_are_rate_limited_and_say_how_far(monkeypatch, capsys):
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track(iter(range(30)), total=30, what="series", every_s=10)) == list(range(30))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("  series 10/30, 1.0/s, 20 s left")
    assert len(lines) == 3


def test_without_a_total_the_count_alone_is_told(monkeypatch, capsys):
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    list(progress.track(iter(range(12)), what="files", every_s=10))
    assert capsys.readouterr().out == "  files 10, 1.0/s\n"


def test_a_resumed_loop_counts_its_rate_from_where_it_resumed(monkeypatch, capsys):
    clock = iter([0, 10])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    progress.Lines("steps", 200, every_s=1, start=100).at(110, "loss 0.5")
    assert capsys.readouterr().out == "  steps 110/200, 1.0/s, 1.5 min left · loss 0.5\n"


def test_what_a_resumed_run_finds_done_does_not_promise_an_early_end(monkeypatch, capsys):
    clock = iter(range(0, 2000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines = progress.Lines("files", 20_000)
    for count in (10_000, *range(10_010, 10_100, 10)):  # half was done; the rest goes at one a second
        lines.at(count)
    assert "1.0/s, 2.8 h left" in capsys.readouterr().out.splitlines()[-1]


def test_slow_items_are_told_in_seconds_each(monkeypatch, capsys):
    clock = iter([0, 50])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    progress.Lines("volumes", 40).at(20)
    assert capsys.readouterr().out == "  volumes 20/40, 2.5 s each, 50 s left\n"


def test_a_terminal_gets_a_bar_with_rate_and_time_left(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress.track(range(40), what="files")) == list(range(40))
    bar = capsys.readouterr().err
    assert "files: 100%" in bar
    assert re.search(r"40/40 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+it/s\]", bar)
