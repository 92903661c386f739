"""What can go wrong."""


class BenchError(Exception):
    """The run cannot go on; the text says why."""


class Unmeasured(Exception):
    """One cell cannot be measured; the text is its footnote."""
