"""One network from the hub, as a folder on this disk."""

from __future__ import annotations

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
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(source, allow_patterns=[*SETTINGS, SAFE], ignore_patterns=[*VARIANTS]))
        if not any(folder.rglob(SAFE)):
            snapshot_download(source, allow_patterns=[PICKLED], ignore_patterns=[*VARIANTS])
    except LocalEntryNotFoundError as error:
        raise StarringError(
            f"'{source}' is not on this disk, and the hub cannot be reached. Check the connection, or name a folder."
        ) from error
    except GatedRepoError as error:
        raise StarringError(
            f"The hub gives '{source}' only to those who accepted its licence. Accept it on huggingface.co/{source} and"
            " log in (hf auth login), or name a folder."
        ) from error
    except RepositoryNotFoundError as error:
        raise StarringError(f"The hub has no '{source}'. Check the id, or name a folder.") from error
    except HfHubHTTPError as error:
        raise StarringError(f"The hub refused '{source}': {' '.join(str(error).split())[:200]}") from error
    return folder
