"""Choice of the checks that a run is to put to its subjects, and of the failures that it expects."""
