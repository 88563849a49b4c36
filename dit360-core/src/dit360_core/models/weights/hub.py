"""Fetches models and LoRAs from the Hugging Face Hub, and says in one sentence why that did not work."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dit360_core.errors import ModelError, first_line
from dit360_core.models.weights.headers import Damaged
from dit360_core.system.progress import DOWNLOADING, listener, underway

LORA_FILES = ["*.safetensors", "adapter_config.json"]
SUBFOLDERS = ["*/*"]
NEVER = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.onnx", "*.py"]

LONGEST_WAIT = 10
"""Seconds that a download waits where the Hub asks it to; beyond, the user is told to come back."""
TRIES = 3
"""How often one thing is asked for while the Hub says that it cannot now."""


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
    from huggingface_hub import errors, get_session, snapshot_download

    from dit360_core.models.weights.downloading import about_of, bar, check_room, missing  # as above

    page = f"https://huggingface.co/{repo_id}"
    ignored = [*NEVER, *(ignore or [])]
    try:
        alive, about = about_of(repo_id, revision)
        size = 0 if about is None else missing(repo_id, about, patterns, ignored)
        check_room(repo_id, size)
        with _impatient(repo_id, get_session()), underway(f"{DOWNLOADING} {repo_id}", size) as progress:
            try:
                folder = snapshot_download(
                    repo_id,
                    revision=revision,
                    allow_patterns=patterns,
                    ignore_patterns=ignored,
                    local_files_only=not alive,
                    tqdm_class=None if listener() is None else bar(progress),
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


@contextlib.contextmanager
def explain_the_cache(repo_id: str) -> Iterator[None]:
    """Says of a damaged file that was fetched how it is fetched anew: the cache would give it again."""
    try:
        yield
    except Damaged as error:
        raise ModelError(f"{error.sentence.rstrip('.')} with 'hf download {repo_id} --force-download'.") from error


@contextlib.contextmanager
def _impatient(repo_id: str, client: Any) -> Iterator[None]:
    """In this block the Hub's client waits for no answer for minutes, which it would do without a word.

    It tries each file six times, for 24 seconds or for six times what the Hub asks it to wait, one file after the
    other.
    """
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
