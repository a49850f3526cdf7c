"""The service: keeps the fleet's membership and places its tasks. `core/` decides; the rest of the folder does."""
