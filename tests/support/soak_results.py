"""What soak.py shows and writes: a live table, a table in Markdown, and a picture."""

import collections
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

WRONG_RESULT = "wrong result"
# A line of the picture has so many points, or twice as many.
POINTS = 150
#: What a client counts, each as one number and each by names.
NUMBERS = "queries", "out of time", "unexpected"
COUNTERS = "faults", "errors", "provoked"


@dataclass
class Result:
    """The result of one combination, or of a witness, whose client may have run more than once."""

    title: str
    #: Whether another library than this one is at work, which may freeze.
    witness: bool = False
    #: The newest state that the client printed. It prints one a second.
    state: dict[str, Any] = field(default_factory=dict)
    #: What the clients before this one counted.
    past: dict[str, Any] = field(
        default_factory=lambda: {**dict.fromkeys(NUMBERS, 0), **{name: collections.Counter() for name in COUNTERS}}
    )
    #: Seconds, memory and descriptors, one a second.
    course: list[dict[str, float]] = field(default_factory=list)
    #: The longest pause of a ticker, in seconds.
    longest_pause: float = 0.0
    #: Faults of the network and of the server.
    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    #: How often a client froze, hung or got a wrong result.
    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    #: Lines of the ledger that are missing, or should be.
    wrong_lines: int = 0
    over: bool = False
    #: Failures, in words.
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add_state(self, state: dict[str, Any], second: float) -> None:
        self.state = state
        self.course.append({"second": second, **{name: state[name] for name in ("megabytes", "descriptors")}})
        self.longest_pause = max(self.longest_pause, state["longest_gap"])

    def number(self, name: str) -> int:
        """Return one of NUMBERS, of all clients."""
        return int(self.past[name] + self.state.get(name, 0))

    def counter(self, name: str) -> "collections.Counter[str]":
        """Return one of COUNTERS, of all clients."""
        return self.past[name] + collections.Counter(self.state.get(name, {}))

    def all_faults(self) -> "collections.Counter[str]":
        """Return how often each fault happened."""
        return self.faults + self.counter("faults")

    def begin_anew(self) -> None:
        """Note what this client did, before another one takes its place."""
        self.past = {
            **{name: self.number(name) for name in NUMBERS},
            **{name: self.counter(name) for name in COUNTERS},
        }
        self.state = {}

    def wrong_results(self) -> int:
        return self.wrong_lines + self.ends[WRONG_RESULT]

    def hangs(self) -> int:
        """Return how often the process froze, or a call hung."""
        return self.ends.total() - self.ends[WRONG_RESULT]

    def memory_grows(self) -> bool:
        """Return whether memory at its lowest, late in a long run, is above what it was at its highest before."""
        if not self.course or self.course[-1]["second"] < 300:
            return False
        memory = [each["megabytes"] for each in self.course]
        quarter = len(memory) // 4
        return min(memory[-quarter:]) > max(memory[quarter : 2 * quarter])

    def verdict(self) -> str:
        if not self.over:
            return "runs"
        if self.witness:
            return ", ".join(f"{count} times {end}" for end, count in self.ends.items()) or "came to its end"
        return "wrong" if self.wrong else "right"

    def row(self) -> list[str]:
        """Return the texts of its row, by COLUMNS."""
        return [
            self.title,
            f"{self.number('queries'):,}",
            f"{self.all_faults().total():,}",
            ", ".join(f"{count:,} {name}" for name, count in self.counter("errors").most_common(3)),
            f"{self.number('out of time'):,}",
            f"{self.hangs():,}",
            f"{self.wrong_results():,}",
            f"{self.number('unexpected'):,}",
            f"{self.longest_pause * 1000:.0f} ms",
            f"{self.state.get('megabytes', 0):.0f}",
            str(self.state.get("descriptors", "")),
            self.verdict(),
        ]

    def record(self) -> dict[str, Any]:
        """Return all that is known, for a JSON file."""
        return {
            "title": self.title,
            "seconds": round(self.seconds),
            **{name: self.number(name) for name in NUMBERS},
            **{name: self.counter(name) for name in COUNTERS},
            "faults": self.all_faults(),
            "ends": self.ends,
            "wrong results": self.wrong_results(),
            "wrong": self.wrong,
            "longest pause": self.longest_pause,
            "course": self.course,
            "last": self.state,
        }


COLUMNS = (
    "",
    "queries",
    "faults",
    "errors",
    "out of time",
    "hangs",
    "wrong results",
    "unexpected errors",
    "longest pause",
    "MB",
    "descriptors",
    "",
)


class Shown:
    """The table of results, updated live on a terminal. Threads may call it."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.console = Console()
        if not self.console.is_terminal:
            self.console.width = 200
        self._live = Live(console=self.console, refresh_per_second=2, transient=True)
        self._printed = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> "Shown":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()
        self.console.print(self.table())

    def add(self, result: Result) -> None:
        self.results.append(result)

    def update(self) -> None:
        """Show the newest states."""
        with self._lock:
            if self.console.is_terminal:
                self._live.update(self.table())
            elif time.monotonic() - self._printed > 10:
                self._printed = time.monotonic()
                for result in self.results:
                    if not result.over:
                        faults = result.all_faults().total()
                        print(f"{result.title}: {result.number('queries'):,} queries, {faults:,} faults", flush=True)

    def table(self) -> Table:
        table = Table(*COLUMNS)
        for result in self.results:
            if result.course or result.ends:
                table.add_row(*result.row())
        return table


def write_markdown(results: Iterable[Result], path: str) -> None:
    """Write the table for the documentation."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(result.row()) + " |" for result in results if result.course or result.ends]
    Path(path).write_text("\n".join(lines) + "\n")


def draw(results: Iterable[Result], path: str) -> None:
    """Draw memory and descriptors over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    # Text as text, and the same picture again from the same figures.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "soak", "font.family": "sans-serif"})
    figure, axes = pyplot.subplots(2, sharex=True, figsize=(8, 5), layout="constrained")
    for name, label, axis in zip(("megabytes", "descriptors"), ("MB resident", "descriptors"), axes, strict=True):
        for result in results:
            points = result.course[:: max(1, len(result.course) // POINTS)]
            seconds = [point["second"] for point in points]
            axis.plot(seconds, [point[name] for point in points], label=result.title, linewidth=1)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[0].legend(ncols=2, fontsize="small")
    axes[1].set_xlabel("seconds")
    figure.savefig(path, metadata={"Date": None})
