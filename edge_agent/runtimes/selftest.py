"""The release's golden vectors on one runtime: what a variant must answer before it may serve.

Every blob is hashed before anything parses it, and what is loaded is what was hashed.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent import runtimes
from edge_agent.errors import ModelLoadError
from edge_agent.ports import read_blob
from fleet.protocol.manifest import Manifest
from fleet.protocol.selftest import Outcome, check, decode_vectors


def run(manifest: Manifest, variant_name: str, blobs: Path, runtime_name: str = "") -> Outcome:
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
    model = runtime.load(read_blob(blobs, variant.blob.sha256), manifest, variant)
    try:
        return check(vectors, manifest.selftest, variant_name, model.run, manifest.outputs)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelLoadError(f"{runtime.name} {runtime.version} failed on variant {variant_name!r}: {error}") from error
    finally:
        model.close()
