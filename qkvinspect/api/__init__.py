"""An opened checkpoint, or a state_dict in memory, as Python users see it."""
