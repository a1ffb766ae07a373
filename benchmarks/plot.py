"""Draw the costs of a query from the JSON record of measure.py.

python benchmarks/measure.py instructions syscalls --json record.json
python benchmarks/plot.py record.json picture.svg
"""

import argparse
import json

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt

HUBS = ("gevent", "eventlet")
LOOPS = {"1.0.2": "#9aa5b1", "pure": "#f2b25c", "compiled": "#336791"}
LABELS = {"1.0.2": "psycogreen 1.0.2", "pure": "2.0, pure", "compiled": "2.0, compiled"}


def draw(axes, title, rows, key, unit):
    """Draw a group of bars for each hub, and a line for the blocking query unless the bars begin there."""
    bottom = 0.4 - len(HUBS) * (len(LOOPS) + 1) + 1
    for group, hub in enumerate(HUBS):
        for place, (loop, colour) in enumerate(LOOPS.items()):
            y = -(group * (len(LOOPS) + 1) + place)
            value = rows[f"{hub} {loop}"][key]
            axes.barh(y, value, color=colour, height=0.85)
            axes.text(value, y, f" {value:{unit}}", va="center", fontsize=9)
    if blocking := rows["blocking"][key]:
        axes.plot([blocking, blocking], [bottom, 0.6], color="#444444", linewidth=1, linestyle="--")
        axes.text(blocking, 0.75, f"blocking {blocking:{unit}}", ha="center", fontsize=9, color="#444444")
    axes.set_yticks([-1, -(len(LOOPS) + 2)], HUBS)
    axes.set_ylim(bottom, 1.4)
    axes.set_title(title, fontsize=11, pad=10)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.margins(x=0.15)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record")
    parser.add_argument("picture")
    parser.add_argument("--connections", type=int, default=16)
    args = parser.parse_args()

    with open(args.record) as file:
        record = json.load(file)
    instructions, syscalls = (
        {row["variant"]: row for row in record[table] if row["connections"] == args.connections}
        for table in ("instructions", "syscalls")
    )
    # The same record must make the same file.
    plt.rcParams["svg.hashsalt"] = "psycogreen"
    plt.rcParams["svg.fonttype"] = "none"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), facecolor="white")
    among = f"{args.connections} connections"
    draw(left, f"Instructions per query above blocking, {among}", instructions, "overhead", ",.0f")
    draw(right, f"System calls per query, {among}", syscalls, "calls", ".2f")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in LOOPS.values()]
    figure.legend(handles, LABELS.values(), loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(args.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
