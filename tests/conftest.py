"""Of all tests: which files go first, and what they need not pay for. What test files share lies in tests/support."""

import gc

# `make test` deals files out to two processes in this order (pytest-xdist, --dist loadfile): the longest ones first, so that none is left for the end.
LONGEST = (
    "notebooks/test_nbval.py",
    "pipeline/test_make.py",
    "browser/test_rating_page.py",
    "notebooks/test_other_data.py",
)


def pytest_collection_modifyitems(items):
    def place(item):
        file = item.nodeid.partition("::")[0].removeprefix("tests/")
        return LONGEST.index(file) if file in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter):
    """Tests that found no browser are told by name of what is missing: a count of skipped tests says nothing."""
    reasons = [
        str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if "browser/" in report.nodeid
    ]
    if reasons:
        terminalreporter.write_line(
            f"{len(reasons)} browser tests skipped: {reasons[0].removeprefix('Skipped: ')}", yellow=True
        )


def pytest_collection_finish():
    """After each training accelerate collects garbage: a quarter of a second each time, as long as all that was imported is looked through again."""
    gc.collect()
    gc.freeze()
