"""Clusters: how nodes are grouped, who leads, what operators want. Pure: see machine.py for the way in."""
