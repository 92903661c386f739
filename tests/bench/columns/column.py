"""What the benchmark asks of a column."""


class Column:
    """Something that is measured of every peer."""

    key = ""
    about = ""
    headings = ()
    background = False  # whether it goes on during the whole run, so that it is measured last
    goals = ()  # what m2mvpn is to reach, one for each heading

    def begin(self, bench):
        """Starts what goes on in the background during the whole run."""

    def measure(self, bench):
        """Measures all peers and puts the figures into `bench.results`."""

    def cells(self, figures):
        """The texts of the table, one for each heading."""
        raise NotImplementedError
