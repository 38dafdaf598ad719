"""Running one job in its folder: stages by name, worker, supervisor, executors."""
