"""Between acts 4 and 5: the teacher, the float student and the int8 student on the same exam, through an agent."""

from __future__ import annotations

from fleet.demo.acts.opening import enrol
from fleet.demo.driver import exam
from fleet.demo.processes import DemoError
from fleet.demo.story import Story
from fleet.demo.workshop import MODEL

BENCH = "bench"  # a fourth device that prefers the float variant; revoked when it has been measured


def compare(story: Story) -> None:
    """Measure each side on the exam. The bench device leaves the fleet before anything is rolled out."""
    shop = story.shop
    port = enrol(shop, BENCH, settings='variants = ["litert-fp32"]\n')
    shop.wait(f"{BENCH} serves release 1", lambda: shop.active(BENCH) == 1, timeout_s=60)
    variant = shop.local(BENCH)["active"]["variant"]
    if variant != "litert-fp32":
        raise DemoError(f"{BENCH} prefers litert-fp32 and serves {variant}")
    result = exam([port], MODEL, story.input_name, story.data["exam"], ("edge_only", "cloud"))
    if result["failed"]:
        raise DemoError(f"{result['failed']:.0f} exam requests failed on {BENCH}")
    shop.processes.pop(BENCH).stop()
    shop.fleet("device", "revoke", BENCH)
    story.report["accuracy"] = {
        "teacher": round(result["cloud"], 4),
        "student_fp32": round(result["edge_only"], 4),
        "student_int8": story.report["accuracy_over_time"]["before_shift"]["edge_only"],
    }
    shop.say("exam: " + ", ".join(f"{name} {value:.3f}" for name, value in story.report["accuracy"].items()))
