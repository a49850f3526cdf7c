"""Apps that rollouts bring to this device: fetched (`fetch`), installed (`disk`), run (`process`), checked (`checks`).

What is decided about one is decided by the machine in `node/core/app.py`; `keeper` carries it out.
"""
