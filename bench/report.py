"""What `compare.py` found, for people: tables as text and Markdown, plots, the table in README.md.

Measures nothing: everything comes from the JSON document.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench.verdict import Systems, judge

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
README = ROOT / "README.md"
MARKS = ("<!-- compare -->", "<!-- /compare -->")

OURS = ("shadowmesh", "shadowmesh-boringssl", "shadowmesh-relayed")
"""Which entry the ratios are of: the first that was measured."""

METRICS = {
    "tcp1_gbit": ("TCP 1", "Gbit/s"),
    "tcp4_gbit": ("TCP 4", "Gbit/s"),
    "reverse_gbit": ("reverse", "Gbit/s"),
    "udp64_peak_kpps": ("64 B peak", "kpps"),
    "udp64_flood_kpps": ("64 B flood", "kpps"),
    "rtt_idle_p50_us": ("idle p50", "µs"),
    "rtt_idle_p99_us": ("idle p99", "µs"),
    "rtt_load_p50_us": ("load p50", "µs"),
    "rtt_load_p99_us": ("load p99", "µs"),
    "cpu_s_per_gb": ("CPU", "s/GB"),
    "rss_mb": ("RSS", "MB"),
}
PLOTTED = (
    "tcp1_gbit",
    "tcp4_gbit",
    "udp64_peak_kpps",
    "rtt_idle_p50_us",
    "rtt_load_p99_us",
    "cpu_s_per_gb",
)

BUSY = 0.3
"""Load average from which the table says that the machine was not idle before the run."""

LOST = ("rtt_idle_lost_percent", "rtt_load_lost_percent")

Row = list[str]


def own(systems: Systems) -> str | None:
    """The entry that the ratios are of, or None if ShadowMesh was not measured."""
    return next((name for name in OURS if name in systems), None)


def ratios(systems: Systems, ours: str | None) -> dict[str, dict[str, float]]:
    """Our median over each other's, for every figure that both have and that is not zero."""
    if ours is None:
        return {}
    mine = systems[ours]["median"]
    return {
        name: {key: mine[key] / value for key, value in other["median"].items() if key in mine and value}
        for name, other in systems.items()
        if name != ours
    }


def number(value: float | None) -> str:
    """Three significant digits, without an exponent; a dash for what can't be had."""
    if value is None:
        return "–"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"


def figure_rows(document: dict[str, Any]) -> list[Row]:
    """Head and one row of medians for each system."""
    head = ["system", "layer", *(f"{title}, {unit}" for title, unit in METRICS.values())]
    rows = [
        [name, str(entry["layer"]), *(number(entry["median"].get(key)) for key in METRICS)]
        for name, entry in document["systems"].items()
    ]
    return [head, *rows]


def ratio_rows(document: dict[str, Any]) -> list[Row]:
    """Head and one row of ratios for each other system; empty without ours."""
    if not document["ratios"]:
        return []
    head = [f"{document['ours']} /", *(title for title, _ in METRICS.values())]
    rows = [
        [name, *(f"{number(row[key])}x" if key in row else "–" for key in METRICS)]
        for name, row in document["ratios"].items()
    ]
    return [head, *rows]


def conditions(document: dict[str, Any]) -> str:
    """How it was measured, in a sentence or two."""
    return (
        f"Medians of {document['rounds']} interleaved rounds of {document['seconds']} s, both ends and relay "
        f"on {document['cores']} cores, kernel {document['kernel']}, {document['congestion_control']}, "
        f"inner MTU {document['inner_mtu']}. CPU: all processes of the system, per GB of one TCP stream. "
        f"RSS: the larger end, after the traffic. Differences under 20 % are ties."
    )


def notes(document: dict[str, Any]) -> list[str]:
    """Ciphers, other inner MTUs, and one line for each system without a full set of rounds."""
    systems = document["systems"].items()
    words = [(name, f"{entry['version']} {entry['cipher']}".strip()) for name, entry in systems]
    lines = ["Versions and ciphers: " + "; ".join(f"{name}: {word}" for name, word in words) + "."]
    other = {name: entry["mtu"] for name, entry in systems if entry["mtu"] != document["inner_mtu"]}
    lines += [f"Inner MTU of {name}: {mtu}, to avoid IP fragments." for name, mtu in other.items()]
    lost = {name: max(entry["median"].get(key, 0.0) for key in LOST) for name, entry in systems}
    lines += [f"Echoes of ping lost by {name}: {share:.1f} %." for name, share in lost.items() if share]
    lines.append(
        f"The source of small datagrams sends {number(document['flood_ceiling_kpps'])} kpps by itself, "
        "into an interface that nobody reads."
    )
    if (load := document["load_before"]) > BUSY:
        lines.append(f"Load average before the run: {load:.1f}; something else ran on this machine.")
    lines += [f"Not measured: {name}: {reason}." for name, reason in document["skipped"].items()]
    return lines + [f"{name}: {reason}." for name, reason in document["failures"].items()]


def requirements(document: dict[str, Any]) -> list[str]:
    """One line for each requirement, from this run alone."""
    lines = [verdict.line() for verdict in judge(document["systems"])]
    return ["Requirements, by the medians of this run:", *lines] if lines else []


def _aligned(rows: list[Row]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def text(document: dict[str, Any]) -> str:
    """Both tables, the conditions and the requirements, for a terminal."""
    lines: list[str] = []
    if document["systems"]:
        head, *rows = figure_rows(document)
        units = ["", "", *(unit for _, unit in METRICS.values())]
        titles = ["system", "layer", *(title for title, _ in METRICS.values())]
        lines += _aligned([titles, units, *rows]) if head else []
    if relative := ratio_rows(document):
        lines += ["", *_aligned(relative)]
    return "\n".join(
        [*lines, "", conditions(document), *notes(document), "", *requirements(document)]
    ).rstrip()


def _markdown(rows: list[Row]) -> list[str]:
    head, *body = rows
    rule = ["---", *("--:" for _ in head[1:])]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]


def markdown(document: dict[str, Any]) -> str:
    """What stands in README.md between the marks."""
    parts = ["\n".join(_markdown(figure_rows(document)))]
    if relative := ratio_rows(document):
        parts.append("\n".join(_markdown(relative)))
    parts.append(conditions(document) + " `make bench` repeats it.")
    parts += notes(document)
    return "\n\n".join(parts)


def insert(readme: str, table: str) -> str:
    """`readme` with the table between the marks.  ValueError if they are not there exactly once."""
    begin, end = MARKS
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ValueError(f"{begin} and {end} must each stand once in README.md")
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    return re.sub(pattern, lambda _: f"{begin}\n{table}\n{end}", readme, flags=re.DOTALL)


def plot(document: dict[str, Any]) -> list[Path]:
    """Bars of medians with the range of the rounds, one panel for each figure, as SVG and PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    # Without this and the empty date below, every run writes other identifiers and dates into the SVG.
    mpl.rcParams["svg.hashsalt"] = "compare"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(14, 8), layout="constrained")
    for panel, key in zip(panels.flat, PLOTTED, strict=True):
        found = {name: entry for name, entry in document["systems"].items() if key in entry["median"]}
        title, unit = METRICS[key]
        link = found.pop("raw", None) if unit == "Gbit/s" and len(found) > 1 else None
        names = list(reversed(found))
        values = [found[name]["median"][key] for name in names]
        ranges = [found[name]["range"][key] for name in names]
        low = [value - span[0] for value, span in zip(values, ranges, strict=True)]
        high = [span[1] - value for value, span in zip(values, ranges, strict=True)]
        colors = ["#c44e52" if name in OURS else "#8c9db5" for name in names]
        panel.barh(names, values, xerr=[low, high], color=colors, error_kw={"elinewidth": 1})
        better = "more" if unit in ("Gbit/s", "kpps") else "less"
        # The bare link's bar would leave all others as thin strips.
        bare = f"; bare link {number(link['median'][key])}" if link else ""
        panel.set_title(f"{title}, {unit} ({better} is better{bare})", fontsize=10)
        panel.locator_params(axis="x", nbins=5)
        panel.tick_params(labelsize=8)
    paths = [RESULTS / "compare.svg", RESULTS / "compare.png"]
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=110)
    plt.close(figure)
    return paths


def load() -> dict[str, Any]:
    """The document of the last saved run.  OSError if there is none."""
    document: dict[str, Any] = json.loads((RESULTS / "compare.json").read_text())
    return document


def save(document: dict[str, Any]) -> list[Path]:
    """Write JSON, the table of README.md and the plots; returns the paths."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "compare.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    README.write_text(insert(README.read_text(), markdown(document)))
    return [path, README, *plot(document)]
