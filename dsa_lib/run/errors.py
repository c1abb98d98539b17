"""The one exception of this project that is meant for the reader of a terminal."""


class StudyError(Exception):
    """A fault in what the user gave: one sentence with the file or name, what is wrong, and what to do."""
