"""`fleet demo --quick`: a first look, with nothing trained and no torch.

    main   the acts in order
    shop   the workshop whose `fleet` commands run in this process
    data   two releases as `model-compiler import` wrote them, and 120 of scikit-learn's handwritten digits

`scripts/write-quick-release` wrote `data`. The releases are unsigned there: the demo's hub signs them with its own
keys.
"""
