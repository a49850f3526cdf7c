"""The real coordinators and nodes in a world with a virtual clock: seeded, faulty, replayable. See `tests/sim/world.py`."""
