"""What of the Hugging Face Hub a text names: a repository, or a file in one. Nothing is asked of the network."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import attrs

from dit360_core.system.naming import looks_like_hub_id

ENDING = ".safetensors"
HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")


@attrs.frozen(kw_only=True)
class Named:
    """What a text names.

    repository: ``owner/name``.
    file: the path of a file or folder in it, or "".
    revision: a branch, a tag or a commit, or None for the newest.
    """

    repository: str
    file: str = ""
    revision: str | None = None

    @property
    def page(self) -> str:
        """Where a person looks at its files."""
        return f"https://huggingface.co/{self.repository}/tree/{self.revision or 'main'}"


def named_on_hub(text: str) -> Named | None:
    """What a text names on the Hub; None if it has none of the forms in which people write that.

    Those are ``owner/name``, ``owner/name/path/file.safetensors`` and the address of either in a browser.
    """
    if re.match(r"https?://", text, re.IGNORECASE):
        return _of_address(text)
    if looks_like_hub_id(text):
        return Named(repository=text)
    owner, _, rest = text.partition("/")
    name, _, file = rest.partition("/")
    if looks_like_hub_id(f"{owner}/{name}") and ":" not in owner and _is_path(file) and file.lower().endswith(ENDING):
        return Named(repository=f"{owner}/{name}", file=file)
    return None


def _of_address(text: str) -> Named | None:
    try:
        address = urlsplit(text)
    except ValueError:
        return None
    if (address.hostname or "") not in HOSTS:
        return None
    owner, name, *rest = [*(unquote(part) for part in address.path.strip("/").split("/")), ""]
    repository = f"{owner}/{name}"
    rest = [part for part in rest if part]
    if owner in ("datasets", "spaces", "collections") or not looks_like_hub_id(repository):
        return None
    if not rest:
        return Named(repository=repository)
    what, *within = rest
    if what not in ("blob", "resolve", "raw", "tree") or not within:
        return None
    revision, *path = within
    file = "/".join(path)
    if file and not _is_path(file):
        return None
    return Named(repository=repository, file=file, revision=None if revision == "main" else revision)


def _is_path(text: str) -> bool:
    """Whether a text is a path that stays in its repository."""
    return bool(text) and "\\" not in text and all(part not in ("", ".", "..") for part in text.split("/"))
