"""What the files of recall have in common."""

from pathlib import Path

from envs.catalogue import Catalogue
from envs.errors import ArtefactError


def check_catalogue(path: Path, fitted: str, num_items: int, catalogue: Catalogue | None) -> None:
    """Refuses a `catalogue` to be served that is not the one with fingerprint `fitted`, of `num_items`; None is any.

    Raises:
        ArtefactError: if it is another.
    """
    if catalogue is not None and catalogue.fingerprint != fitted:
        raise ArtefactError(
            f"the recall in '{path}' was fitted on another catalogue ({num_items} items) than what is to be served "
            f"({len(catalogue)} items); fit it to a log of this catalogue."
        )
