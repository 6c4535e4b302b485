"""Files that hold the variables of a layer."""

__all__: list[str] = []
