"""Fetches models and LoRAs from the Hugging Face Hub, and says in one sentence why that did not work."""

from __future__ import annotations

from pathlib import Path

from dit360_core.errors import ModelError, first_line
from dit360_core.flux.files import PARTS, SETTINGS

# FLUX repositories hold their weights twice, once as a single file beside the diffusers folders; only these are wanted.
MODEL_FILES = ["model_index.json", SETTINGS, *(f"{part}/*" for part in PARTS)]
LORA_FILES = ["*.safetensors", "adapter_config.json"]
SUBFOLDERS = ["*/*"]
NEVER = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.onnx"]

ANSWER_WITHIN = 10.0
"""Seconds. A server that accepts and never answers would hold up a download for minutes."""


def _answers(repo_id: str) -> bool:
    """Whether the Hub says anything about a repository, be it a refusal, within a limit."""
    from huggingface_hub import HfApi, errors

    try:
        HfApi().model_info(repo_id, timeout=ANSWER_WITHIN)
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled):
        return True  # the download will say the same, and the sentence is made there
    except Exception as error:
        # The Hub's client is httpx or httpx2, by its version; whatever it raises here is a network that does not work.
        if not type(error).__module__.startswith("httpx"):
            raise
        return False
    return True


def cached(repo_id: str, patterns: list[str]) -> Path | None:
    """The folder of a repository as far as it is in the local cache, without asking the network; None if it is not."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo_id, allow_patterns=patterns, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError):
        return None


def fetch(repo_id: str, patterns: list[str], *, ignore: list[str] | None = None) -> Path:
    """The local folder of a Hub repository, downloaded if it is not in the cache.

    Raises ModelError: unknown id, licence not accepted, token missing, no network, disk full.
    """
    from huggingface_hub import errors, snapshot_download

    page = f"https://huggingface.co/{repo_id}"
    try:
        folder = snapshot_download(
            repo_id,
            allow_patterns=patterns,
            ignore_patterns=[*NEVER, *(ignore or [])],
            local_files_only=not _answers(repo_id),
        )
        return Path(folder)
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
    except (errors.HFValidationError, errors.RevisionNotFoundError) as error:
        raise ModelError(f"{repo_id!r} is no Hub id ({error}); it looks like owner/name.") from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelError(
            f"{repo_id} is not complete in the local cache and HF_HUB_OFFLINE is set; unset it, or download the model "
            f"first with 'hf download {repo_id}'."
        ) from error
    except (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise ModelError(
            f"{repo_id} is not complete in the local cache and the Hub cannot be reached; connect to the network, or "
            "copy the model to this machine and give its folder."
        ) from error
    except errors.HfHubHTTPError as error:
        raise ModelError(f"The Hub refused {repo_id} ({error}); try again, or look at {page}.") from error
    except OSError as error:
        raise ModelError(
            f"{repo_id} could not be stored ({error}); free disk space, or move the cache with HF_HOME."
        ) from error
    except Exception as error:  # httpx, httpx2 or hf-xet, whose errors have no common class
        raise ModelError(
            f"The download of {repo_id} broke off ({first_line(error)}); run it again, it goes on where it stopped."
        ) from error
