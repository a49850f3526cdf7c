"""What the coordinator decides, pure: events in (`events.py`), actions out (`actions.py`), time as an argument.

Imports the standard library, `schemas` and its siblings only; never nats, asyncio, time or random.
"""
