"""What a run says while it goes on, on stderr."""

import sys
import time


def step(text):
    """One line, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
