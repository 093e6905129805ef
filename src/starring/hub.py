"""One network from the hub, as a folder or a file on this disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starring.errors import StarringError

SETTINGS = ("*.json", "*.txt", "*.model")
"""Configurations and vocabularies."""
SAFE, PICKLED = "*.safetensors", "*.bin"
"""Weights. The second kind, which is read without running what it holds, is taken only where there is no first."""
VARIANTS = ("*.fp16.*", "*.non_ema.*", "onnx/*")
"""Other forms of the same weights."""


def fetched(source: str) -> Path:
    """The folder that a hub id is downloaded to, or was downloaded to before.

    The hub is asked once. Libraries that fetch file by file try each for twenty seconds before they say that there is
    no connection.

    Args:
        source: ``owner/name``.

    Raises:
        StarringError: if the hub cannot be reached and nothing is cached, or does not give it.
    """
    from huggingface_hub import snapshot_download

    with _told(source, "a folder"):
        folder = Path(snapshot_download(source, allow_patterns=[*SETTINGS, SAFE], ignore_patterns=[*VARIANTS]))
        if not any(folder.rglob(SAFE)):
            snapshot_download(source, allow_patterns=[PICKLED], ignore_patterns=[*VARIANTS])
    return folder


def file_of(source: str) -> Path:
    """One file of a repository on the hub, downloaded now or before.

    Args:
        source: ``owner/name/file``, where the file may lie in folders.

    Raises:
        StarringError: if that is no such name, the hub cannot be reached and nothing is cached, or does not give it.
    """
    import huggingface_hub

    owner, name, file = parts_of(source)
    with _told(source, "a path"):
        return Path(huggingface_hub.hf_hub_download(f"{owner}/{name}", file))


def parts_of(source: str) -> tuple[str, str, str]:
    """Owner, name and file of ``owner/name/file``.

    Raises:
        StarringError: if it is something else.
    """
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if not (owner and name and file) or source.startswith((".", "~")):
        raise StarringError(f"'{source}' is no file here, nor one on the hub, which would be owner/name/file.")
    return owner, name, file


@contextmanager
def _told(source: str, instead: str) -> Iterator[None]:
    """What the hub answers, in words."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        yield
    except LocalEntryNotFoundError as error:
        raise StarringError(
            f"'{source}' is not on this disk, and the hub cannot be reached. Check the connection, or name {instead}."
        ) from error
    except GatedRepoError as error:
        raise StarringError(
            f"The hub gives '{source}' only to those who accepted its licence. Accept it on huggingface.co/{source} and"
            f" log in (hf auth login), or name {instead}."
        ) from error
    except RepositoryNotFoundError as error:
        raise StarringError(f"The hub has no '{source}'. Check the id, or name {instead}.") from error
    except HfHubHTTPError as error:
        raise StarringError(f"The hub refused '{source}': {' '.join(str(error).split())[:200]}") from error
