"""A model card as Markdown (CommonMark with tables). Pure.

Names, notes and reasons come from publishers and operators: each is escaped, so that none becomes a heading, a link, an
image, a row of a table or HTML. What is not known is said to be unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from cloud_hub.cards.facts import CardFacts, PublisherWords
from fleet.protocol.manifest import Gate, Manifest, Tensor, Variant
from fleet.protocol.task import task_in_words

CLASSES, CHARACTERS = 200, 10_000  # that are shown of a list, and of a text
_MARKS = re.compile(r"([\\`*_\[\]|~$])")
_ADDRESS = re.compile(r":(?=//)|(?<=www)\.|@", re.IGNORECASE)  # what GitHub's Markdown makes a link of by itself
_START = re.compile(r"^(\s*\d*)([-#+=.)])")  # what makes a heading or a list at the start of a line


def card(facts: CardFacts, *, at: float) -> str:
    """The card of a release, as of `at` (Unix seconds)."""
    release = facts.release
    parts = [
        f"# Model card: {plain(release.model)}, release {release.number}",
        "\n".join(_head(facts, at)),
        "## Intended use\n\n" + _words(facts.intended_use, release.number, "intended use", "--intended-use"),
        "## Data\n\n" + "\n".join(_data(facts)),
        "## Metrics\n\n" + _metrics(facts.manifest),
        "## Verdict\n\n" + "\n".join(_verdict(facts.manifest)),
        "## Deferral to the cloud\n\n" + _deferral(facts),
        "## Measured on devices\n\n" + _measured(facts),
        "## Rollouts\n\n" + _rollouts(facts),
        "## Limits\n\n" + "\n\n".join(_limits(facts)),
        "## Lineage\n\n" + "\n".join(_lineage(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text in one line that means nothing to Markdown or HTML."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:CHARACTERS])
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _START.sub(r"\1\\\2", _ADDRESS.sub(r"\\\g<0>", _MARKS.sub(r"\\\1", line)))


def _prose(text: str) -> str:
    """Paragraphs of a text, as plain as its lines."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text[:CHARACTERS].replace("\r", ""))]
    return "\n\n".join(plain(part) for part in paragraphs if part)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _head(facts: CardFacts, at: float) -> Iterator[str]:
    release = facts.release
    published = _date(release.published_at) if release.published_at is not None else "not yet"
    yield f"- Status: {release.status}" + (", below the model's floor" if facts.below_floor else "")
    yield f"- Published: {published}, by {plain(release.created_by) or 'unknown'}"
    yield f"- Note: {plain(release.note) or 'none'}"
    task = facts.manifest.named_task
    yield f"- Task: {plain(task_in_words(task)) if task is not None else 'unknown: the release names none'}"
    yield f"- This card was written on {_date(at)} from what the hub knew then."


def _words(said: PublisherWords | None, number: int, what: str, option: str) -> str:
    if said is None:
        return f"Unknown: nobody said the {what} of this release (`fleet release publish {option}`)."
    since = f"\n\nSaid of release {said.release}; this one says nothing of its own." if said.release != number else ""
    return _prose(said.text) + since


def _data(facts: CardFacts) -> Iterator[str]:
    manifest, snapshot = facts.manifest, facts.snapshot
    name = manifest.lineage.snapshot
    if snapshot is not None:
        when = f"made {_date(snapshot.created_at)} by {plain(snapshot.created_by) or 'unknown'}"
        size = f"{snapshot.samples:,} samples, {snapshot.labelled:,} of them labelled"
        yield f"- Snapshot: `{_hash(name)}`, {size}, {when}"
    elif name:
        yield f"- Snapshot: {plain(name)}; the hub no longer has it, so its samples are unknown"
    else:
        yield "- Snapshot: none is named; what it was trained on beside its recipe is unknown"
    rows = "unknown" if facts.rows is None else f"{facts.rows:,}"
    yield f"- Rows of the training inputs that were summed up: {rows}"
    tested = sorted({variant.verdict.samples for variant in manifest.variants})
    yield f"- Rows that it was judged on, and never calibrated on: {', '.join(f'{count:,}' for count in tested)}"
    yield f"- Classes: {_classes(manifest.labels)}"
    yield f"- Inputs: {_tensors(manifest.inputs)}"
    yield f"- Outputs: {_tensors(manifest.outputs)}"
    yield "- Rows by class, and who or what is in the data: unknown, it is not recorded"


def _classes(labels: Sequence[str]) -> str:
    if not labels:
        return "none are named"
    more = f", and {len(labels) - CLASSES:,} more" if len(labels) > CLASSES else ""
    return f"{len(labels):,}: {', '.join(plain(label) for label in labels[:CLASSES])}{more}"


def _tensors(tensors: Sequence[Tensor]) -> str:
    return "; ".join(rf"{plain(one.name)} {one.datatype} \{list(one.shape)}" for one in tensors)


def _metrics(manifest: Manifest) -> str:
    heads = (
        "variant",
        "runs on",
        "metric",
        "value",
        "95 % interval",
        "reference",
        "drop, points",
        "agreement",
        "worst class drop",
        "bytes",
        "p50 µs",
        "p95 µs",
    )
    table = _table(heads, map(_row, manifest.variants))
    notes = [f"- {plain(one.name)}: {plain(note)}" for one in manifest.variants for note in one.verdict.notes]
    said = "The reference is the model that a variant was made of; latencies are those of the machine that compiled it."
    return f"{table}\n\n{said}" + ("\n\n" + "\n".join(notes) if notes else "")


def _row(variant: Variant) -> list[str]:
    one = variant.verdict
    bound = f" (at most {one.drop_bound:.3g} with 95 % confidence)" if isinstance(one.drop_bound, float) else ""
    return [
        plain(variant.name),
        variant.placement,
        plain(one.metric) + ("" if one.higher_is_better else " (lower is better)"),
        f"{one.value:.4g}",
        f"{one.interval[0]:.4g} to {one.interval[1]:.4g}",
        f"{one.reference:.4g}",
        f"{one.drop_points:.3g}{bound}",
        f"{one.agreement:.4g}",
        f"{one.worst_class_drop:.3g}",
        f"{one.size_bytes:,}",
        f"{one.latency_us_p50:.4g}",
        f"{one.latency_us_p95:.4g}",
    ]


def _verdict(manifest: Manifest) -> Iterator[str]:
    terms = list(_terms(manifest.gate))
    if not terms:
        yield "The gate set no terms: no figure kept this release from being published."
        return
    by = "the worse end of each interval" if manifest.gate.by_bound else "the measured point"
    yield f"The gate's terms, judged by {by}: {'; '.join(terms)}."
    yield ""
    for variant in manifest.placed("edge"):
        broken = manifest.gate.broken_by(variant.verdict)
        yield f"- {plain(variant.name)}: " + ("breaks: " + plain("; ".join(broken)) if broken else "keeps all of them")


def _terms(gate: Gate) -> Iterator[str]:
    for words, term in (
        ("a drop of at most {} points", gate.max_drop_points),
        ("the metric no worse than {}", gate.min_metric),
        ("agreement of at least {}", gate.min_agreement),
        ("no class lower by more than {}", gate.max_class_drop),
        ("latency at most {} times that of fp32", gate.max_latency_ratio),
    ):
        if term is not None:
            yield words.format(f"{term:.4g}")


def _deferral(facts: CardFacts) -> str:
    rows = []
    for variant in facts.manifest.variants:
        found = variant.deferral
        if found is not None:
            level = f"{100 * found.level:.0f} % confidence" if found.level else "no confidence stated"
            promise = f"{plain(found.target)}, with {level}" if found.target else "nothing is promised"
            rows.append([plain(variant.name), f"{found.threshold:.4g}", promise])
    if not rows:
        return "Unknown: no variant has a calibrated confidence, so none is deferred by it."
    asked = f"\n\nAsked for was: {plain(facts.target)}." if facts.target else ""
    return _table(("variant", "defers below", "promise"), rows) + asked


def _measured(facts: CardFacts) -> str:
    if not facts.release.measured:
        return "Unknown: no device has measured it yet."
    heads = ("hardware", "variant", "runtime", "devices", "p50 µs", "p95 µs", "worst p95 µs", "memory, bytes")
    return _table(
        heads,
        (
            [
                plain(one.hardware),
                plain(one.variant),
                plain(one.runtime),
                f"{one.devices:,}",
                f"{one.p50_us:.4g}",
                f"{one.p95_us:.4g}",
                f"{one.worst_p95_us:.4g}",
                f"{one.memory_bytes:,}",
            ]
            for one in facts.release.measured
        ),
    )


def _rollouts(facts: CardFacts) -> str:
    if not facts.rollouts:
        return "None: no rollout has led to this release."
    rows = (
        [plain(one.id), plain(one.channel), str(one.from_release), one.state, plain(one.reason) or "–", _date(one.at)]
        for one in facts.rollouts
    )
    return _table(("rollout", "channel", "from release", "state", "why", "begun"), rows)


def _limits(facts: CardFacts) -> Iterator[str]:
    yield _words(facts.limits, facts.release.number, "limits", "--limits")
    known = ["- The figures hold for inputs like the rows that it was judged on; how it does on others is unknown."]
    worst = max(facts.manifest.placed("edge"), key=lambda one: one.verdict.worst_class_drop, default=None)
    if worst is not None and facts.manifest.labels:
        drop = 100 * worst.verdict.worst_class_drop
        known.append(f"- The class that lost most by quantization lost {drop:.3g} points ({plain(worst.name)}).")
    if facts.manifest.sketch is None:
        known.append("- It has no drift sketch: nobody sees when inputs move away from those that it was trained on.")
    if facts.release.status == "withdrawn":
        known.append("- It was withdrawn: no device may install it.")
    known += [f"- Not to be read: {plain(one)}." for one in facts.missing]
    yield "\n".join(known)


def _lineage(facts: CardFacts) -> Iterator[str]:
    lineage = facts.manifest.lineage
    yield f"- Recipe: {plain(lineage.recipe) or 'unknown'}"
    yield f"- Made from: {', '.join(map(plain, lineage.parents)) or 'nothing that it names'}"
    yield f"- Seed: {lineage.seed}"
    tools = ", ".join(f"{plain(name)} {plain(version)}" for name, version in sorted(lineage.tools.items()))
    yield f"- Tools: {tools or 'unknown'}"
    for name, value in sorted(lineage.extra.items()):
        yield f"- {plain(name)}: {plain(str(value))}"
    for variant in facts.manifest.variants:
        yield f"- {plain(variant.name)}: {variant.runtime}, {variant.precision}, sha256 `{_hash(variant.blob.sha256)}`"


def _hash(text: str) -> str:
    """A hash within backticks, which end nothing where it is none."""
    return re.sub(r"[^0-9A-Za-z]", "?", text)[:64]


def _date(at: float) -> str:
    return f"{datetime.fromtimestamp(min(max(at, 0.0), 253_402_300_799.0), UTC):%Y-%m-%d %H:%M} UTC"
