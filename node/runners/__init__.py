"""Running work outside the daemon: `pool` and `runner` are the daemon's side, `child` is the process that runs it."""
