"""The tables and the picture of peers.py, from its record in JSON.

    python benchmarks/peers_report.py benchmarks/peers.json
    python benchmarks/peers_report.py benchmarks/peers.json --docs docs --picture docs/comparison.svg

With --docs it writes the tables into comparison.md and comparison-figures.md, between the
lines that begin and end a region. A figure is the median over the rounds, with the least and the
greatest in brackets.
"""

import argparse
import json
import pathlib
import re
import statistics

from peer_works import WORKS

HUBS = ("gevent", "eventlet", "asyncio", "uvloop", "threads")
OURS = "psycogreen, compiled"
FIGURES = {"rate": "a second", "cpu": "CPU, µs", "p50": "p50, ms", "p99": "p99, ms", "megabytes": "RSS, MB"}


def write(record, path):
    """Write the record, a row a line."""
    rows = ",\n".join(json.dumps(row) for row in record["rows"])
    rest = json.dumps({key: value for key, value in record.items() if key != "rows"}, indent=1)
    pathlib.Path(path).write_text(f'{rest.removesuffix("}").rstrip()},\n "rows": [\n{rows}\n ]\n}}\n')


def merged(records):
    """Return the record of several runs; what more than one of them measured has the rounds of all."""
    rows = {}
    for row in (row for record in records for row in record["rows"]):
        key = name(row), row["work"], row["connections"]
        if key not in rows:
            rows[key] = row
        elif "refused" not in row:
            rows[key].update({figure: rows[key][figure] + row[figure] for figure in FIGURES})
    return {
        "runs": [run for record in records for run in record["runs"]],
        "versions": {each: versions for record in records for each, versions in record["versions"].items()},
        "rows": list(rows.values()),
    }


def counted(connections):
    return f"{connections} connection" + "s" * (connections != 1)


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values):
    """Return the median of *values*, with the least and the greatest."""
    low, middle, high = number(min(values)), number(statistics.median(values)), number(max(values))
    return middle if len(values) == 1 else f"{middle} ({low}–{high})"


def shown(row, figure):
    if row is None:
        return ""
    return "refused" if "refused" in row else spread(row[figure])


def name(row):
    return row["product"], row["hub"], row["driver"]


def sizes(record):
    return sorted({row["connections"] for row in record["rows"]})


def works(record, connections=None):
    measured = {row["work"] for row in record["rows"] if connections in (None, row["connections"])}
    return [work for work in WORKS if work in measured]


def by_contender(record, **wanted):
    """Return the rows with these values, by contender, in the record's order."""
    order = dict.fromkeys(name(row) for row in sorted(record["rows"], key=lambda row: place(name(row))))
    rows = {name(row): row for row in record["rows"] if all(row[key] == value for key, value in wanted.items())}
    return {contender: rows.get(contender) for contender in order}


def place(contender):
    product, hub, driver = contender
    return HUBS.index(hub), not is_ours(contender), driver != "psycopg2", product != OURS, product


def cpu_table(record, connections):
    """Return the header and the lines of the table of CPU time: a line a contender, a column a work."""
    columns = works(record, connections)
    header = ["hub", "", "driver", *[WORKS[work] for work in columns]]
    table = {work: by_contender(record, work=work, connections=connections) for work in columns}
    lines = []
    for contender in next(iter(table.values())):
        product, hub, driver = contender
        lines.append([hub, product, driver, *[shown(table[work][contender], "cpu") for work in columns]])
    return header, lines


def figures_table(record, work):
    """Return the header and the lines of the table with all figures of *work*."""
    header = ["connections", "hub", "", "driver", *FIGURES.values()]
    lines = []
    for connections in sizes(record):
        for (product, hub, driver), row in by_contender(record, work=work, connections=connections).items():
            if row is not None:
                lines.append([connections, hub, product, driver, *[shown(row, figure) for figure in FIGURES]])
    return header, lines


def verdicts(record, connections):
    """Return the header and the lines of the table of ratios to the best alternative on the same hub.

    A ratio is the CPU time of psycogreen to that of the alternative with the lowest median, on the same hub or
    in threads, both of the same round. Alternatives to psycogreen with psycopg 3 are those with psycopg 3.
    """
    columns = works(record, connections)
    table = {work: by_contender(record, work=work, connections=connections) for work in columns}
    lines = []
    for ours in next(iter(table.values())):
        product, hub, driver = ours
        if is_ours(ours) and "pure" not in product:
            lines.append([hub, product, driver, *[verdict(table[work], ours) for work in columns]])
    return ["hub", "", "driver", *[WORKS[work] for work in columns]], lines


def verdict(rows, ours):
    others = {
        other: row["cpu"]
        for other, row in rows.items()
        if row and "cpu" in row and not is_ours(other)
        if other[1] in (ours[1], "threads") and (ours[2] != "psycopg 3" or other[2] == "psycopg 3")
    }
    if not others or not rows[ours]:
        return ""
    best = min(others, key=lambda other: statistics.median(others[other]))
    ratios = [a / b for a, b in zip(rows[ours]["cpu"], others[best], strict=True)]
    return f"{spread(ratios)} {best[0]}"


def is_ours(contender):
    return contender[0].startswith("psycogreen, ")


def markdown(header, lines):
    rows = [header, ["---"] * len(header), *lines]
    return "".join("| " + " | ".join(str(cell) for cell in row) + " |\n" for row in rows)


def new_console():
    """Return the console, wide enough for the table where it is a file."""
    from rich.console import Console

    result = Console()
    return result if result.is_terminal else Console(width=140)


def show(record, console):
    """Print the CPU time, with half of the spread."""
    from rich import box
    from rich.table import Table

    for connections in sizes(record):
        columns = works(record, connections)
        table = Table(title=f"CPU time of the client in µs, {counted(connections)}", box=box.SIMPLE)
        table.add_column(no_wrap=True)
        for work in columns:
            table.add_column(WORKS[work], justify="right")
        rows = {work: by_contender(record, work=work, connections=connections) for work in columns}
        for contender in next(iter(rows.values())):
            table.add_row(label(contender), *[brief(rows[work][contender]) for work in columns])
        console.print(table)


def brief(row):
    if not row or "refused" in row:
        return "refused" if row else ""
    middle = statistics.median(row["cpu"])
    half = (max(row["cpu"]) - min(row["cpu"])) / 2 / middle
    return f"{number(middle)} ±{half:.0%}" if len(row["cpu"]) > 1 else number(middle)


def document(record, directory):
    """Write the tables into the documents' regions."""
    versions = {package: version for each in record["versions"].values() for package, version in each.items()}
    versions.pop("psycogreen", None)
    run = record["runs"][0]
    python = run["Python"].split(",")[0]
    packages = ", ".join(f"{package} {version}" for package, version in sorted(versions.items()))
    machine = (
        f"Measured on {run['date']} on {run['processor']}, with {run['kernel']}, {python}, PostgreSQL "
        f"{run['PostgreSQL']}, {packages}, and psycogreen's commit {run['commit']}. The commands:\n\n"
    )
    for run in record["runs"]:
        machine += (
            f"- `{run['command']}`: rounds of {run['seconds']} s; the load of the machine was {run['load before']} "
            f"before and {run['load after']} at the end\n"
        )
    for connections in sizes(record):
        rows = [row for row in record["rows"] if row["connections"] == connections and "cpu" in row]
        counts = sorted({len(row["cpu"]) for row in rows})
        machine += f"- with {counted(connections)}: {' or '.join(map(str, counts))} round{'s' * (counts != [1])}\n"
    regions = {"machine": machine}
    for connections in sizes(record):
        regions[f"verdict {connections}"] = markdown(*verdicts(record, connections))
        regions[f"cpu {connections}"] = markdown(*cpu_table(record, connections))
    regions["figures"] = "\n".join(
        f"## {WORKS[work][0].upper()}{WORKS[work][1:]}\n\n{markdown(*figures_table(record, work))}"
        for work in works(record)
    )
    for page in "comparison.md", "comparison-figures.md":
        path = pathlib.Path(directory, page)
        text = path.read_text()

        def filled(match):
            if match[2] not in regions:
                raise SystemExit(f"the record has nothing for {match[2]!r}")
            return f"{match[1]}\n{regions[match[2]]}\n{match[3]}"

        text = re.sub(r"(<!-- begin (.*?) -->\n).*?(<!-- end \2 -->)", filled, text, flags=re.DOTALL)
        path.write_text(text)


def draw(record, path, connections=16):
    """Draw the CPU time of each work with *connections* connections."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # The same record must make the same file.
    plt.rcParams["svg.hashsalt"] = "psycogreen"
    plt.rcParams["svg.fonttype"] = "none"
    if connections not in sizes(record):
        connections = sizes(record)[-1]
    columns = works(record, connections)
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(2 + 3.2 * across, 1 + 4 * down), facecolor="white", squeeze=False, sharey=True
    )
    for axes in grid.flat[len(columns) :]:
        axes.set_axis_off()
    for axes, work in zip(grid.flat, columns, strict=False):
        rows = by_contender(record, work=work, connections=connections)
        rows = {contender: row for contender, row in rows.items() if "pure" not in contender[0]}
        largest = max(max(row["cpu"]) for row in rows.values() if row and "refused" not in row)
        # A gap between the hubs.
        places = [n + 0.7 * HUBS.index(hub) for n, (_, hub, _) in enumerate(rows)]
        for y, (contender, row) in zip(places, rows.items(), strict=True):
            if row is None or "refused" in row:
                axes.text(0, y, " refused", va="center", fontsize=8, color="#777777")
                continue
            value = statistics.median(row["cpu"])
            colour = "#336791" if is_ours(contender) else "#9aa5b1"
            axes.barh(y, value, color=colour, height=0.8)
            axes.plot([min(row["cpu"]), max(row["cpu"])], [y, y], color="#222222", linewidth=1)
            axes.text(max(row["cpu"]) + largest / 60, y, number(value), va="center", fontsize=8)
        axes.set_yticks(places, [label(contender) for contender in rows], fontsize=8)
        axes.set_title(WORKS[work], fontsize=11)
        axes.set_xticks([])
        axes.set_xlim(0, largest * 1.2)
        axes.tick_params(length=0)
        for side in ("top", "right", "bottom"):
            axes.spines[side].set_visible(False)
    grid[0][0].invert_yaxis()
    figure.suptitle(f"CPU time of the client for each, µs, {counted(connections)}", fontsize=12)
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    figure.savefig(path, metadata={"Date": None})


def label(contender):
    product, hub, driver = contender
    words = [product.replace(OURS, "psycogreen")]
    words += [hub] if hub not in product and hub != "threads" else []
    words += [driver] if product.startswith("psycogreen") and driver != "psycopg2" else []
    return ", ".join(words)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="+")
    parser.add_argument("--json", help="where to write the record of all runs")
    parser.add_argument("--docs", help="the directory with the documents")
    parser.add_argument("--picture")
    args = parser.parse_args()
    record = merged([json.loads(pathlib.Path(path).read_text()) for path in args.records])
    if args.json:
        write(record, args.json)
    show(record, new_console())
    if args.docs:
        document(record, args.docs)
    if args.picture:
        draw(record, args.picture)


if __name__ == "__main__":
    main()
