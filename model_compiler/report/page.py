"""`report.html`: one self-contained page, from the document of `report.json` alone. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final

from model_compiler.report import plots
from model_compiler.report.plots import PlotSeries

STYLE = """
:root { color-scheme: light dark; --ink: #1d232b; --soft: #5b6673; --line: #d8dde3; --paper: #ffffff; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #39424d; --paper: #14181d; --bad: #ff8a80; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 500; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
.wide { overflow-x: auto; } figure { margin: 0; } figcaption { color: var(--soft); }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--ink); } svg .axis { fill: var(--soft); }
svg .grid { stroke: var(--line); } .bad { color: var(--bad); } .soft { color: var(--soft); }
"""

Document = Mapping[str, Any]

COLUMNS: Final[Mapping[str, Callable[[Document], str]]] = {  # what each is called, and says of a verdict
    "95 %": lambda v: f"{v['interval'][0]:.4g}–{v['interval'][1]:.4g}",
    "drop": lambda v: f"{v['drop_points']:.2f}",
    "agreement": lambda v: f"{v['agreement']:.4f}",
    "worst class, points": lambda v: f"{100 * v['worst_class_drop']:.1f}",
    "bytes": lambda v: f"{v['size_bytes']:,}",
    "p50 / p95 µs": lambda v: f"{v['latency_us_p50']:.0f} / {v['latency_us_p95']:.0f}",
    "× fp32": lambda v: f"{v['latency_ratio']:.2f}",
    "load ms": lambda v: f"{v['load_ms']:.1f}",
    "memory MB": lambda v: f"{v['peak_memory_bytes'] / 1e6:.1f}",
}


def page(document: Document) -> str:
    """The whole page as text."""
    variants = document["variants"]
    shipped = [name for name, entry in variants.items() if entry["shipped"]]
    sections = [
        f"<h1>Release: {escape(', '.join(shipped))}</h1>",
        f'<p class="soft">{escape(_lineage(document["lineage"]))}</p>',
        _verdicts(document),
        _left_out(document),
        "<h2>Plots</h2>",
        f'<div class="plots">{"".join(_plots(document))}</div>',
        *[_search(name, found) for name, found in document.get("search", {}).items()],
        _tools(document["lineage"]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Release report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _lineage(lineage: Document) -> str:
    words = [f"{key} {lineage[key]}" for key in ("recipe", "snapshot") if lineage.get(key)]
    return ", ".join([*words, *lineage.get("parents", ())])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _verdicts(document: Document) -> str:
    rows, notes = [], []
    for name, entry in document["variants"].items():
        verdict = entry["verdict"]
        who = escape(name) + ("" if entry["shipped"] else ' <span class="bad">left out</span>')
        cells = [cell(verdict) for cell in COLUMNS.values()]
        rows.append([who, f"{verdict['value']:.4g}", *cells, escape(", ".join(entry["runtimes"]))])
        notes += [f"<li>{escape(name)}: {escape(note)}</li>" for note in verdict["notes"]]
        notes += [
            f'<li class="bad">{escape(name)}: {escape(runtime)} refuses it: {escape(why)}</li>'
            for runtime, why in entry["refused"].items()
        ]
    head = ("variant", document["metric"], *COLUMNS, "runtimes")
    listed = f"<ul>{''.join(notes)}</ul>" if notes else ""
    gate = ", ".join(
        f"{key.replace('_', ' ')} {value:g}" for key, value in document["gate"].items() if value is not None
    )
    return f"<h2>Verdicts</h2><p>Gate: {escape(gate or 'no terms')}.</p>{_table(head, rows)}{listed}"


def _left_out(document: Document) -> str:
    rows = [f'<li class="bad">{escape(name)}: {escape(why)}</li>' for name, why in document["left_out"].items()]
    return f"<h2>Left out</h2><ul>{''.join(rows)}</ul>" if rows else ""


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _plots(document: Document) -> list[str]:
    edge = {name: entry for name, entry in document["variants"].items() if entry["placement"] == "edge"}
    metric = document["metric"]
    if not edge:
        return []

    def against(field: str, label: str) -> str:
        series = [
            PlotSeries(name, [(e["verdict"][field], e["verdict"]["value"])], [tuple(e["verdict"]["interval"])])
            for name, e in edge.items()
        ]
        return plots.points(series, x_label=label, y_label=metric, title=f"{metric} against {label}")

    costs = [(n, [e["verdict"]["latency_us_p50"], e["verdict"]["latency_us_p95"]]) for n, e in edge.items()]
    found = [
        _figure(against("size_bytes", "bytes"), "Size against the metric, with 95 % intervals."),
        _figure(against("latency_us_p50", "p50 latency, µs"), "Latency at batch 1 against the metric."),
        _figure(
            plots.bars(["p50", "p95"], costs, x_label="", y_label="µs", title="latency by variant"),
            "Latency at batch 1, all variants measured in turns on the compiling machine.",
        ),
    ]
    return found + _class_plot(edge, document["labels"]) + _deferral_plots(edge)


def _class_plot(edge: Document, labels: Sequence[str]) -> list[str]:
    changes = []
    for name, entry in edge.items():
        base = edge.get(f"{name.split('-')[0]}-fp32")
        if base is not None and base is not entry and entry["recall"]:
            changes.append((name, [100 * (entry["recall"][k] - base["recall"][k]) for k in entry["recall"]]))
    if not changes:
        return []
    classes = [labels[int(k)] if int(k) < len(labels) else k for k in next(iter(edge.values()))["recall"]]
    svg = plots.bars(
        classes, changes, x_label="class", y_label="points of recall", title="change of each class's recall"
    )
    return [_figure(svg, "What quantization changed in each class: recall against the float model's.")]


def _deferral_plots(edge: Document) -> list[str]:
    name, entry = next(iter(edge.items()))
    curve = entry["deferral"] and entry["deferral"]["curve"]
    if not curve:
        return []
    kept = [point for point in curve if point["cloud_share"] < 1]  # where all is sent, the edge answers nothing
    series = [
        PlotSeries(
            who,
            [(100 * p["cloud_share"], 100 * p[f"{key}_accuracy"]) for p in shown],
            [(100 * p[f"{key}_interval"][0], 100 * p[f"{key}_interval"][1]) for p in shown],
        )
        for who, key, shown in (("edge, of what it keeps", "edge", kept), ("edge and cloud", "combined", curve))
    ]
    title = f"deferral of {name}"
    svg = plots.lines(series, x_label="% sent to the cloud", y_label="% right", title=title)
    target = entry["deferral"]["target"]
    return [_figure(svg, f"{name}: accuracy by the share that asks the cloud. Threshold chosen for {target}.")]


def _search(name: str, found: Document) -> str:
    tried = []
    for c in found["tried"]:
        held = "meets the gate" + (", on the frontier" if c["on_frontier"] else "")
        said = f'<span class="bad">{escape("; ".join(c["broken"]))}</span>' if c["broken"] else held
        latency = "" if c["latency_us_p50"] is None else f"{c['latency_us_p50']:.1f}"
        cells = [f"{c['size_bytes']:,}", latency, f"{c['value']:.4g}", f"{c['agreement']:.4f}", said]
        tried.append([escape(c["plan"]), *cells])
    ranked = [
        [escape(entry["operator"][-90:]), escape(entry["kind"]), f"{entry['error']:.3g}"]
        for entry in found["sensitivity"][:20]
    ]
    parts = [
        f"<h2>Search for {escape(name)}</h2>",
        f"<p>Chosen: {escape(found['chosen'] or 'nothing met the gate')}.</p>",
    ]
    parts.append(_table(("plan", "bytes", "p50 µs", "metric", "agreement", ""), tried))
    if ranked:
        parts.append("<p>What each operator costs: the output's relative squared error when it alone is in int8.</p>")
        parts.append(_table(("operator", "kind", "error"), ranked))
    return "".join(parts)


def _tools(lineage: Document) -> str:
    words = ", ".join(f"{name} {version}" for name, version in lineage["tools"].items())
    return f'<h2>Made with</h2><p class="soft">{escape(words)}</p>'
