"""What fogfleet costs, as ratios to a hand-written floor measured in the same run. Run by ``python -m tests.bench``."""
