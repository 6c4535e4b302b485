"""Meaning of a module's ``sync``: the communicator that joins its statistics with those of other ranks."""

from typing import Any

import torch

from bnspec import Communicator, get_communicator
from bnspec._errors import refusal

__all__ = ["Sync"]

#: One communicator for each process group, since making one is a collective of its ranks.
_OF_GROUPS: dict[Any, Communicator] = {}


class Sync:
    """The value of a module's ``sync``, which copies of the module share and a pickle holds only by name.

    Parameters
    ----------
    given : None, bool, str, torch.distributed.ProcessGroup or Communicator
        True stands for all ranks of torch.distributed; a text is a communicator's name, such as "mpi".
    """

    def __init__(self, given: Any) -> None:
        known = given is None or isinstance(given, bool | str) or hasattr(given, "all_reduce") or _is_group(given)
        if not known:
            raise refusal(
                TypeError,
                "BN-SYNC-9",
                got=f"sync is a {type(given).__name__}",
                expected="True, the name of a communicator, a torch.distributed process group, or a communicator",
                do='Write sync=True under torchrun, sync="mpi" under mpiexec.',
            )
        self.given = given

    def communicator(self) -> Communicator | None:
        """Return the communicator of this rank, or None where statistics are the rank's own."""
        given = self.given
        if given is None or given is False:
            return None
        if isinstance(given, str):
            return get_communicator(given)
        if given is True:
            return get_communicator("torch")
        if not _is_group(given):
            comm: Communicator = given
            return comm
        if given not in _OF_GROUPS:
            from bnspec_backends.ranks import TorchCommunicator

            _OF_GROUPS[given] = TorchCommunicator(given)
        return _OF_GROUPS[given]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Sync":
        """Share it: a copy of a module is of the same ranks."""
        return self

    def __reduce__(self) -> Any:
        """Refuse to pickle what belongs to this process."""
        if self.given is None or isinstance(self.given, bool | str):
            return Sync, (self.given,)
        raise refusal(
            TypeError,
            "BN-STATE-2",
            got=f"a module to be pickled whose sync is a {type(self.given).__name__}",
            expected='True, or a name such as "mpi", which another process finds again',
            do="Set module.sync before pickling, or save module.state_dict().",
        )


def _is_group(given: Any) -> bool:
    return torch.distributed.is_available() and isinstance(given, torch.distributed.ProcessGroup)
