"""Counts of what the CUDA kernels did, and of what they left to others."""

__all__ = ["Counters", "counters"]


class Counters:
    """Counts since the process began; anyone may set them back."""

    def __init__(self) -> None:
        #: Kernels that were started.
        self.launches = 0
        #: Arrays that were copied because no kernel reads them in place.
        self.copies = 0
        #: Calls that went the specification's way, by what they were.
        self.left: dict[str, int] = {}

    def leave(self, what: str) -> None:
        """Note a call that no kernel serves."""
        self.left[what] = self.left.get(what, 0) + 1


#: The counts of every call.
counters = Counters()
