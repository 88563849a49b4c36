"""Fetches models and LoRAs from the Hugging Face Hub, and says in one sentence why that did not work."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dit360_core.errors import ModelError, first_line
from dit360_core.models.weights.headers import Damaged
from dit360_core.system.memory import gib
from dit360_core.system.progress import DOWNLOADING, Progress, listener, underway

LORA_FILES = ["*.safetensors", "adapter_config.json"]
SUBFOLDERS = ["*/*"]
NEVER = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.onnx", "*.py"]

ANSWER_WITHIN = 10.0
"""Seconds. A server that accepts and never answers would hold up a download for minutes."""
LONGEST_WAIT = 10
"""Seconds that a download waits where the Hub asks it to; beyond, the user is told to come back."""
TRIES = 3
"""How often one thing is asked for while the Hub says that it cannot now."""


def _about(repo_id: str, revision: str | None) -> tuple[bool, Any]:
    """Whether the Hub says anything about a repository, be it a refusal, within a limit; and what it says of it."""
    from huggingface_hub import HfApi, errors

    try:
        return True, HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=ANSWER_WITHIN)
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled):
        return True, None  # the download will say the same, and the sentence is made there
    except Exception as error:
        # The Hub's client is httpx or httpx2, by its version; whatever it raises here is a network that does not work.
        if not type(error).__module__.startswith("httpx"):
            raise
        return False, None


def cached(repo_id: str, patterns: list[str]) -> Path | None:
    """The folder of a repository as far as it is in the local cache, without asking the network; None if it is not."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo_id, allow_patterns=patterns, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError):
        return None


def fetch(repo_id: str, patterns: list[str], *, ignore: list[str] | None = None, revision: str | None = None) -> Path:
    """The local folder of a Hub repository, downloaded if it is not in the cache.

    revision: a branch, a tag or a commit; None for the newest.

    Raises ModelError: unknown id, licence not accepted, token missing or wrong, too many requests, no network, disk
    full. What has arrived by then stays, and the next try goes on there. What a listener of
    :mod:`dit360_core.system.progress` raises ends the download, and is raised.
    """
    from huggingface_hub import errors, snapshot_download

    page = f"https://huggingface.co/{repo_id}"
    ignored = [*NEVER, *(ignore or [])]
    try:
        alive, about = _about(repo_id, revision)
        size = 0 if about is None else _missing(repo_id, about, patterns, ignored)
        _check_room(repo_id, size)
        with _impatient(repo_id), underway(f"{DOWNLOADING} {repo_id}", size) as progress:
            try:
                folder = snapshot_download(
                    repo_id,
                    revision=revision,
                    allow_patterns=patterns,
                    ignore_patterns=ignored,
                    local_files_only=not alive,
                    tqdm_class=None if listener() is None else _bar(progress),
                )
            except Exception:
                progress.check()  # rather what ended it than what became of that
                raise
        return Path(folder)
    except ModelError:
        raise
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repo_id} is behind a licence that this account has not accepted, or no token is set; accept it at "
            f"{page}, then run 'hf auth login'."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{repo_id} does not exist on the Hub, or is private and no token for it is set; check the name at {page}, "
            "or run 'hf auth login'."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{repo_id} has no revision {revision} on the Hub; choose one of those at {page}/tree/main."
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{repo_id!r} is no Hub id ({error}); it looks like owner/name.") from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelError(
            f"{repo_id} is not complete in the local cache and HF_HUB_OFFLINE is set; unset it, or download the model "
            f"first with 'hf download {repo_id}'."
        ) from error
    except (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        # What the Hub said is told as if it were no answer, where something might have been in the cache.
        said = error.__cause__
        while said is not None and not isinstance(said, errors.HfHubHTTPError):
            said = said.__cause__
        if isinstance(said, errors.HfHubHTTPError):
            raise _refusal(repo_id, said.response.status_code, _seconds_to_wait(said.response.headers)) from error
        raise ModelError(
            f"{repo_id} is not complete in the local cache and the Hub cannot be reached; connect to the network, or "
            "copy the model to this machine and give its folder."
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refusal(repo_id, error.response.status_code, _seconds_to_wait(error.response.headers)) from error
    except OSError as error:
        if error.errno is None:  # the Hub's client's own: another number of bytes arrived than was told
            raise ModelError(
                f"The download of {repo_id} arrived damaged ({first_line(error)}); run it again, and look to your "
                "proxy if that does not help."
            ) from error
        raise ModelError(
            f"{repo_id} could not be stored ({error}); free disk space, or move the cache with HF_HOME."
        ) from error
    except ValueError as error:
        raise ModelError(
            f"What the Hub says of {repo_id} cannot be used ({first_line(error)}); get another model."
        ) from error
    except Exception as error:  # httpx, httpx2 or hf-xet, whose errors have no common class
        raise ModelError(
            f"The download of {repo_id} broke off ({first_line(error)}); run it again, it goes on where it stopped."
        ) from error


def _missing(repo_id: str, about: Any, patterns: list[str], ignore: list[str]) -> int:
    """Bytes of the files of a repository that match and are not in the cache, under whichever revision.

    about: what the Hub says of it.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

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
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE).absolute() / repo_folder_name(repo_id=repo_id, repo_type="model")


def _check_room(repo_id: str, size: int) -> None:
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


def _bar(progress: Progress) -> type[Any]:
    """What huggingface_hub is to tell how many bytes have arrived, in the place of its own bars."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

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


@contextlib.contextmanager
def explain_the_cache(repo_id: str) -> Iterator[None]:
    """Says of a damaged file that was fetched how it is fetched anew: the cache would give it again."""
    try:
        yield
    except Damaged as error:
        raise ModelError(f"{error.sentence.rstrip('.')} with 'hf download {repo_id} --force-download'.") from error


@contextlib.contextmanager
def _impatient(repo_id: str) -> Iterator[None]:
    """In this block the Hub's client waits for no answer for minutes, which it would do without a word.

    It tries each file six times, for 24 seconds or for six times what the Hub asks it to wait, one file after the
    other.
    """
    from huggingface_hub import get_session

    client: Any = get_session()
    tries: Counter[str] = Counter()

    def look(response: Any) -> None:
        status = response.status_code
        if repo_id not in response.url.path or (status != 429 and status < 500):
            return
        seconds = _seconds_to_wait(response.headers)
        tries[str(response.url)] += 1
        if tries[str(response.url)] == TRIES or (seconds or 0) > LONGEST_WAIT:
            raise _refusal(repo_id, status, seconds)

    log = logging.getLogger("huggingface_hub")
    level = log.level
    hooks = client.event_hooks["response"]
    hooks.append(look)
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        hooks.remove(look)


def _refusal(repo_id: str, status: int, seconds: int | None) -> ModelError:
    """What a status that is no success means for the user.

    seconds: after which the Hub wants to be asked again.
    """
    if status == 401:
        return ModelError(
            f"The Hub does not accept the token that is set here, so {repo_id} cannot be fetched; run 'hf auth login' "
            "for a new one, or unset HF_TOKEN if the model is public."
        )
    if status == 403:
        return ModelError(
            f"The Hub forbids {repo_id} to the token that is set here; give the token the right to read it at "
            "https://huggingface.co/settings/tokens, or run 'hf auth login' as somebody who may."
        )
    if status == 429:
        later = f"in {seconds} s" if seconds is not None else "in some minutes"
        return ModelError(
            f"The Hub has had too many requests from here, so {repo_id} is not complete; run it again {later}, "
            "it goes on where it stopped, or run 'hf auth login' to be allowed more."
        )
    return ModelError(
        f"The Hub failed to answer for {repo_id} (HTTP {status}); run it again later, it goes on where it stopped, or "
        "copy the model to this machine and give its folder."
    )


def _seconds_to_wait(headers: Any) -> int | None:
    """From Retry-After, or from "ratelimit: "name";r=remaining;t=seconds"."""
    found = re.fullmatch(r"\d+", headers.get("Retry-After") or "") or re.search(
        r"(?<=;t=)\d+", headers.get("ratelimit") or ""
    )
    return int(found[0]) if found else None
