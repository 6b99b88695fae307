"""Label Studio's labelling configuration for a model's task and for what its inputs are. Pure.

The names of its controls are what `label_studio` reads back.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from fleet.api.labelling import LabelTask, LabelTasks
from fleet.protocol.task import ANOMALY_SCORE, DETECTION, MULTI_LABEL, REGRESSION

CHOICE, NUMBER, BOXES, WORDS = "label", "value", "boxes", "words"  # names of the controls
ANOMALY, USUAL = "anomaly", "usual"
OBJECTS = {"image": "Image", "sound": "Audio", "series": "TimeSeries", "table": "Table", "text": "Text"}


def config_of(how: LabelTasks, shown: LabelTask) -> str:
    """The configuration as XML.

    Args:
        how: what a label of the model is.
        shown: one of its samples, for what inputs are.
    """
    lines = [*_objects(shown), *_controls(how)]
    return "\n".join(["<View>", *(f"  {line}" for line in lines), "</View>", ""])


def _objects(shown: LabelTask) -> list[str]:
    kind = OBJECTS[shown.kind]
    if shown.kind == "series":
        channels = [f'  <Channel column={quoteattr(name)} legend="{name}"/>' for name in shown.series if name != "time"]
        opened = '<TimeSeries name="input" value="$series" valueType="json" timeColumn="time">'
        found = [opened, *channels, "</TimeSeries>"]
    else:
        found = [f'<{kind} name="input" value="${shown.kind}"/>']
    if shown.kind != "text" and shown.text:
        found.append('<Text name="others" value="$text"/>')
    return found


def _controls(how: LabelTasks) -> list[str]:
    if how.task == DETECTION:
        return _choices("RectangleLabels", BOXES, "Label", how.classes)
    if how.task == MULTI_LABEL:
        return _choices("Choices", CHOICE, "Choice", how.classes, ' choice="multiple"')
    if how.task == ANOMALY_SCORE:
        return _choices("Choices", CHOICE, "Choice", (USUAL, ANOMALY), ' choice="single"')
    if how.task == REGRESSION:
        return [f'<Number name="{name}" toName="input" slider="false"/>' for name in number_names(how.values)]
    if how.classes:
        return _choices("Choices", CHOICE, "Choice", how.classes, ' choice="single"')
    return [f'<TextArea name="{WORDS}" toName="input" maxSubmissions="1"/>']


def number_names(values: int) -> list[str]:
    """The controls of a label of so many numbers, in their order."""
    return [NUMBER] if values == 1 else [f"{NUMBER}_{place + 1}" for place in range(values)]


def _choices(kind: str, name: str, item: str, values: Sequence[str], more: str = "") -> list[str]:
    items = [f"  <{item} value={quoteattr(value)}/>" for value in values]
    return [f'<{kind} name="{name}" toName="input"{more}>', *items, f"</{kind}>"]
