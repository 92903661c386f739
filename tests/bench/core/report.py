"""The Markdown table, and its place in docs/performance.md."""

from core.errors import BenchError
from core.iperf import CONGESTION_CONTROL

BEGIN = "<!-- tests/bench/run writes from here -->"
END = "<!-- to here -->"
NOT_OF_THIS_PEER = ""


def markdown(results, columns):
    """The table of a run, with what it was measured on and a footnote for every cell that has no figure."""
    data = results.data
    notes = []
    lines = [
        row(["peer", *(heading for column in columns for heading in column.headings)]),
        row(["---"] * (1 + sum(len(column.headings) for column in columns))),
    ]
    for peer in data["peers"].values():
        lines.append(row([peer["title"], *(cell for column in columns for cell in cells(peer, column, notes))]))
    if any(column.goals for column in columns):
        goals = (goal for column in columns for goal in column.goals or [""] * len(column.headings))
        lines.append(row(["**to reach**", *(f"**{goal}**" if goal else "" for goal in goals)]))
    parts = ["\n".join(lines)]
    if notes:
        parts.append("\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)))
    parts.append(conditions(data))
    return "\n\n".join(parts)


def write_into(page, table):
    """Puts the table between the two marks of a page."""
    text = page.read_text() if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{page}: expected the marks {BEGIN!r} and {END!r}, each on a line of its own")
    page.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}")


def cells(peer, column, notes):
    """What a row says in a column; a new footnote where there is no figure."""
    figures = peer["cells"].get(column.key)
    if figures is None and "left_out" in peer:
        figures = {"unmeasured": peer["left_out"]}
    if figures is None:
        return [NOT_OF_THIS_PEER] * len(column.headings)
    if "unmeasured" in figures:
        return [f"- ({note(peer, figures['unmeasured'], notes)})"] * len(column.headings)
    texts = column.cells(figures)
    if "remark" in figures:
        texts = [f"{texts[0]} ({note(peer, figures['remark'], notes)})", *texts[1:]]
    return texts


def note(peer, text, notes):
    """The number of a footnote."""
    text = f"{peer['title'].strip('*')}: {text.replace('|', '/')}"
    if text not in notes:
        notes.append(text)
    return notes.index(text) + 1


def conditions(data):
    """What the figures were measured on, and with which versions."""
    machine, options = data["machine"], data["options"]
    versions = [peer["version"] for peer in data["peers"].values() if peer["version"]]
    load = f"{machine['load_before']} before and {machine.get('load_after', '?')} after"
    return (
        f"Measured {options['started']} on {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, {machine['system']}; load {load}. Medians of {options['repeat']}, TCP transfers "
        f"of {options['seconds']} s with {CONGESTION_CONTROL}; the tunnels' own TCP has this machine's "
        f"{machine['tcp_congestion_control']}. Versions: {'; '.join(dict.fromkeys(versions))}."
    )


def row(texts):
    """One line of a table."""
    return f"| {' | '.join(texts)} |"
