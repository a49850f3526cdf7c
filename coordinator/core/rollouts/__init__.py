"""Rollouts: a pure machine that brings one version of an app to many devices, by batches that are gated on health.

`machine.step` takes an event and answers with actions; `phases.py` is the table of what a rollout can go through,
`fit.py` says which device may take a version, `gates.py` when a batch was good enough.
"""
