"""What a download takes: what the Hub says of a repository, what of it is here, and how much has arrived.

Only :mod:`dit360_core.models.weights.hub` imports this, when it fetches: the Hub's client is slow to import.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import filter_repo_objects, tqdm  # type: ignore[attr-defined]

from dit360_core.errors import ModelError
from dit360_core.system.memory import gib
from dit360_core.system.progress import Progress

ANSWER_WITHIN = 10.0
"""Seconds. A server that accepts and never answers would hold up a download for minutes."""


def about_of(repo_id: str, revision: str | None) -> tuple[bool, Any]:
    """Whether the Hub says anything about a repository, be it a refusal, within a limit; and what it says of it."""
    try:
        return True, HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=ANSWER_WITHIN)
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled):
        return True, None  # the download will say the same, and the sentence is made there
    except Exception as error:
        # The Hub's client is httpx or httpx2, by its version; whatever it raises here is a network that does not work.
        if not type(error).__module__.startswith("httpx"):
            raise
        return False, None


def missing(repo_id: str, about: Any, patterns: list[str], ignore: list[str]) -> int:
    """Bytes of the files of a repository that match and are not in the cache, under whichever revision.

    about: what the Hub says of it.
    """
    files = {file.rfilename: file for file in about.siblings or ()}
    wanted = [files[name] for name in filter_repo_objects(files, allow_patterns=patterns, ignore_patterns=ignore)]
    blobs = _of_cache(repo_id) / "blobs"

    def here(file: Any) -> bool:
        blob = file.lfs.sha256 if file.lfs else file.blob_id
        if blob and (blobs / blob).is_file():
            return True
        # Where the file system has no links, files lie in the snapshots themselves.
        return isinstance(try_to_load_from_cache(repo_id, file.rfilename, revision=about.sha), str)

    return sum(file.size or 0 for file in wanted if not here(file))


def _of_cache(repo_id: str) -> Path:
    """A repository's folder in the cache, whether it is there or not."""
    return Path(constants.HF_HUB_CACHE).absolute() / repo_folder_name(repo_id=repo_id, repo_type="model")


def check_room(repo_id: str, size: int) -> None:
    """Raises ModelError unless the disk takes what is to be downloaded. What was begun before is begun anew."""
    if not size:
        return
    folder = _of_cache(repo_id).parent
    there = next((each for each in (folder, *folder.parents) if each.exists()), None)
    if there is None:
        raise ModelError(f"The cache {folder} is on a drive that is not there; name another place with HF_HOME.")
    free = shutil.disk_usage(there).free
    if size > free:
        raise ModelError(
            f"{repo_id} takes {gib(size)} more in {folder}, where {gib(free)} are free; free disk space, or move the "
            "cache with HF_HOME."
        )


def bar(progress: Progress) -> type[Any]:
    """What huggingface_hub is to tell how many bytes have arrived, in the place of its own bars."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            self._of_bytes = settings.get("unit") == "B"
            super().__init__(*args, **{**settings, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if not self._of_bytes:
                return
            # Of what came through the network and what is on the disk, which are told apart, the more counts.
            self.n += n or 0
            try:
                progress.reach(self.n)
            except BaseException:
                _end_xet()
                raise

    return Bar


def _end_xet() -> None:
    """Ends downloads by Xet, which print what a bar raises and go on. Without this the file at work is ended first."""
    with contextlib.suppress(Exception):
        from huggingface_hub.utils._xet import abort_xet_session

        abort_xet_session()  # type: ignore[no-untyped-call]
