"""Groups of conventions, each measured by a function that takes an `Asker` and yields findings."""
