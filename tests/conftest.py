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


def pytest_collection_finish():
    """After each training accelerate collects garbage: a quarter of a second each time, as long as all that was imported is looked through again."""
    gc.collect()
    gc.freeze()
