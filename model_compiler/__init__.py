"""A trained model in; measured, gated, quantized variants out, packed as a release.

    main         the `model-compiler` command
    pipeline     the whole job, top to bottom
    sources      where a model comes from: torch, ONNX, or an existing file
    data         calibration and validation sets
    variants/    one builder per runtime
    runners      running a variant, in a child process, to measure it
    verdict      what was measured, in numbers and plain words
    deferral     calibrated confidence and the threshold for asking the cloud
    vectors      golden self-test vectors
    reference    the drift encoder, its reference and margin
    pack         the release directory
    errors       the exception tree

Heavy packages (torch, litert_torch, ai_edge_quantizer, onnx) are imported where they are used.
"""
