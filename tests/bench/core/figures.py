"""How figures are summed up and written."""

import statistics


def median(values):
    """The median."""
    return statistics.median(values)


def percentile(values, share):
    """The smallest value that at least `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def milliseconds(seconds):
    """A time of some milliseconds."""
    return f"{seconds * 1000:.0f} ms"


def duration(seconds):
    """A time between some milliseconds and a minute, in two or three digits."""
    if seconds < 0.9995:
        return milliseconds(seconds)
    return f"{seconds:.1f} s"
