"""The fcas_* entry points: the only place where the rooms meet."""
