"""A retrain under a byte budget: as many of the student's weights change as devices can pay for.

The budget is what a device with the release before fetches for the new one: patches of the manifest, of the self-test
and of its model file. It is met by making that patch: less is changed until it fits, and more where much is left.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.errors import InvalidError
from cloud_hub.training.dealing import Parts
from cloud_hub.training.handed import RELEASE, Released
from cloud_hub.training.models import Made
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.sparing import LEAST_SHARE, share_for
from fleet.protocol.manifest import Manifest, Variant, encode_manifest
from fleet.protocol.manifest_detail import without_detail
from model_compiler.inputs.former_release import Former

# Guesses before anything is compiled. One that is too low costs another training (see `work`), one that is too high
# refuses a budget that can be kept: so they are low.
VERDICTS = 0.3  # of a manifest's bytes: its patch, which brings hashes and figures
ANSWERS = 0.55  # of the bytes of a self-test's answers: its patch, as long as it asks the same inputs
UNREAD = 0.1  # of a self-test's bytes, where its vectors are not at hand
TRIES = 6
AIM = 0.9  # of what is left after a patch was too large
FULL = 0.85  # of what is left: a patch that takes less is tried again with more weights
MORE = 4.0  # times as many at most
Train = Callable[[float], Made]
Size = Callable[[Made], int | None]
Worse = Callable[[Made, Made], bool]  # whether the second is worse than the first, by more than chance


@dataclass(frozen=True)
class Budget:
    """At most `limit` bytes for a device that has `former` and its variant `variant`."""

    limit: int
    former: Former
    variant: Variant

    @property
    def beside(self) -> int:
        """About what an update takes beside the model file's patch."""
        bare = without_detail(self.former.manifest, self.former.manifest.selftest.blob)
        told = sum(len(one.data) for v in self.former.vectors for answers in v.outputs.values() for one in answers)
        answers = ANSWERS * told if told else UNREAD * self.former.manifest.selftest.blob.size
        return int(VERDICTS * len(encode_manifest(bare)) + answers)


def budget_of(request: RunRequest, current: Released | None, limit: int) -> Budget:
    """The budget, before anything is trained.

    Raises:
        InvalidError: there is no release to start from, the recipe makes its student by itself or anew, or no variant
            of the release can keep its grid.
    """
    recipe = request.loaded.recipe
    if current is None:
        raise _refused("there is no release before that devices could make the new one from", "retrain without it once")
    if recipe.fit is not None:
        raise _refused("the recipe fits its student by itself", "give it a student that the kit trains")
    if recipe.warm is False or not request.start.get("student"):
        why = "the recipe says warm=False" if recipe.warm is False else "its weights are not to be had"
        raise _refused(f"the student cannot start from release {current.number}: {why}", "retrain without it once")
    known = current.former
    for variant in current.manifest.placed("edge"):
        if variant.runtime == "litert" and variant.name in recipe.targets and known.file_of(variant.name) is not None:
            return Budget(limit, known, variant)
    raise _refused(
        f"release {current.number} has no LiteRT variant that the recipe builds again",
        "let the recipe build a LiteRT target: targets=('litert-int8', …)",
    )


def train_within(
    budget: Budget, room: int, weights: int, train: Train, size_of: Size, worse: Worse = lambda less, more: False
) -> Made:
    """A student whose model file's patch has at most `room` bytes: of those that were tried, the one of which most
    weights may change, unless it is worse than one of which fewer may.

    Args:
        weights: how many it has.
        train: trains a student of which a share of the weights may change.
        size_of: makes its patch, in bytes; None where it compiles to another graph than the released file's.
        worse: compares two of them on rows that neither was trained on, and that no gate has.

    Raises:
        InvalidError: not even the least share fits; the least that is possible is in the message.
    """
    share, size = share_for(max(room, 1), weights), 0
    fits: dict[float, Made] = {}  # by share
    highest: float | None = None  # share that does not fit
    for _ in range(TRIES):
        made = train(share)
        found = size_of(made)
        if found is None:
            raise _refused("the network compiles to another graph than the released one", "retrain without it once")
        size = found
        print(f"student: {share:.2%} of the weights may change, the patch has {size} bytes", file=sys.stderr)
        if size <= room:
            fits[share] = made
            if size >= FULL * room or share >= 1:
                break
        else:
            highest = share
            if share <= LEAST_SHARE:
                break
        share = _next(share, max(fits, default=None), highest, room / max(size, 1))
    if not fits:
        raise over(budget, budget.beside + size)
    return _best([made for _, made in sorted(fits.items(), key=lambda one: one[0])], worse)


def _next(share: float, fits: float | None, highest: float | None, left: float) -> float:
    """The share to try after `share`: fewer until one fits, then more until the room is full, then between the two.

    Args:
        fits: the largest share that fits.
        highest: the smallest share that does not.
        left: the room over the patch's bytes.
    """
    if fits is None:
        return max(LEAST_SHARE, share * min(AIM, max(0.1, AIM * left)))
    if highest is None:
        return min(1.0, share * min(MORE, AIM * left))
    return math.sqrt(fits * highest)


def _best(made: Sequence[Made], worse: Worse) -> Made:
    """Of students with ever more weights that may change, the last that is not worse than the best before it."""
    best = made[0]
    for more in made[1:]:
        best = best if worse(best, more) else more
    return best


def patch_size(budget: Budget, parts: Parts, made: Made) -> int | None:
    """The bytes of the patch to a student's model file, see `train_within`."""
    from model_compiler.package.update_cost import written_patch

    assert made.module is not None  # the kit trained it
    rows = made.steps.inputs(parts.train.take(slice(1)).inputs)
    return written_patch(budget.former, budget.variant.name, made.module, tuple(rows.values()))


def weights_of(request: RunRequest) -> int:
    """Count the weights of the student of the release before."""
    return sum(int(array.size) for array in request.start["student"].values())


def over(budget: Budget, least: int) -> InvalidError:
    """The refusal of a budget that cannot be kept, with about the least that can."""
    return InvalidError(
        f"an update of at most {budget.limit} bytes is not possible: the least is about {least} "
        f"(about {budget.beside} of them are manifest and self-test)",
        subject="max_bytes",
        hint=f"--max-bytes {least}, or more",
    )


def fetched(former: Former, folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes that devices fetch for the release in `folder`, by variant: with `former`, and with nothing."""
    from model_compiler.inputs.release_folder import read_blob, read_release
    from model_compiler.package.update_cost import update_bytes

    manifest = read_release(folder / RELEASE)
    files = {blob.sha256: read_blob(folder / RELEASE, blob) for blob in manifest.blobs()}
    return update_bytes(former, manifest, files), _whole(manifest)


def _whole(manifest: Manifest) -> dict[str, int]:
    size = len(encode_manifest(manifest))
    return {v.name: size + sum(blob.size for blob in manifest.needed_for(v)) for v in manifest.placed("edge")}


def _refused(why: str, hint: str) -> InvalidError:
    return InvalidError(f"no byte budget can be kept: {why}", subject="max_bytes", hint=hint)
