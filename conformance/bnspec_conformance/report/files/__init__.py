"""Files of a run: where they go, how they are written whole, what they hold while it is under way."""
