"""Holding running work to its ceilings: `enforcer` is what the daemon uses, the rest are its senses and its hands."""
