"""The release's golden vectors on one runtime: what a variant must answer before it may serve.

Every blob is hashed before anything parses it, and what is loaded is what was hashed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edge_agent import runtimes
from edge_agent.errors import ModelLoadError
from edge_agent.ports import load_variant, read_blob
from fleet import tasks
from fleet.protocol.manifest import Manifest
from fleet.protocol.selftest import Agree, Arrays, SelftestResult, check_vectors, decode_vectors
from fleet.protocol.task import CLASSIFICATION


def run(manifest: Manifest, variant_name: str, blobs: Path, runtime_name: str = "") -> SelftestResult:
    """Load a variant and compare its answers with the golden vectors.

    Args:
        blobs: the folder of files named by their SHA-256.
        runtime_name: a runtime's distribution; empty for the best installed one.

    Raises:
        CorruptBlobError, ModelLoadError, RuntimeMissingError, ProtocolError: it cannot even be tried.
    """
    variant = manifest.variant(variant_name)
    runtime = runtimes.named(runtime_name) if runtime_name else runtimes.for_variant(variant)
    vectors = decode_vectors(read_blob(blobs, manifest.selftest.blob.sha256))
    model = load_variant(runtime, partial(read_blob, blobs), manifest, variant)
    try:
        return check_vectors(vectors, manifest.selftest, variant_name, model.run, manifest.outputs, agree_of(manifest))
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelLoadError(f"{runtime.name} {runtime.version} failed on variant {variant_name!r}: {error}") from error
    finally:
        model.close()


def agree_of(manifest: Manifest) -> Agree | None:
    """Return the comparison of two answers by the release's task; None for a classification, which compares scores."""
    spec = manifest.named_task
    if spec is None or spec.name == CLASSIFICATION:
        return None
    task = tasks.of_manifest(manifest)

    def agree(golden: Arrays, actual: Arrays) -> tuple[int, int]:
        if not task.compares:
            return 1, 1
        pairs = list(zip(task.answers(golden), task.answers(actual), strict=True))
        return sum(task.agrees(one, other) for one, other in pairs), len(pairs)

    return agree
