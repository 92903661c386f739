"""What was measured, in the form of `--json`.

It is written anew after every cell, so that an interrupted run keeps what it has.
"""

import json
import os


class Results:
    """All figures of a run."""

    def __init__(self, path, machine, options):
        self._path = path
        self.data = {"machine": machine, "options": options, "peers": {}}

    def add_peer(self, peer):
        """Begins a row."""
        self.data["peers"][peer.key] = {"title": peer.title, "version": "", "cells": {}}
        self._save()

    def set_version(self, peer, version):
        """Says what version the row is of."""
        self.data["peers"][peer.key]["version"] = version

    def leave_out(self, peer, reason):
        """Says why a row has no figures."""
        self.data["peers"][peer.key]["left_out"] = reason
        self._save()

    def put(self, column, peer, figures):
        """Keeps the figures of a cell."""
        self.data["peers"][peer.key]["cells"][column.key] = figures
        self._save()

    def fail(self, column, peer, reason):
        """Says why a cell has no figures."""
        self.put(column, peer, {"unmeasured": reason})

    def finish(self, load):
        """Adds what is known only at the end."""
        self.data["machine"]["load_after"] = load
        self._save()

    def _save(self):
        if not self._path:
            return
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(partial, self._path)
