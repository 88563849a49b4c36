"""The tokenizers of a model: their files are looked at, tried in a process of their own, and only then loaded.

The library that reads a tokenizer.json is compiled, and ends the process where some bytes are damaged, which no
``except`` can catch. What it is given to read was made from what is known here, and lies in a folder of its own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dit360_core.errors import ModelError, first_line
from dit360_core.models.flux.schemas import SPECIAL_TOKENS, TOKENIZER
from dit360_core.models.weights.schema import brief, checked, read_json
from dit360_core.plugins import EMBEDDED_MODEL
from dit360_core.system.children import environment

VOCABULARIES = {"tokenizer": ("tokenizer.json", "vocab.json"), "tokenizer_2": ("tokenizer.json", "spiece.model")}
"""What transformers needs beside its configuration, one of these, to make a tokenizer."""
_PLAIN = ("vocab.json", "merges.txt", "spiece.model")
_MODELS = {"tokenizer": "BPE", "tokenizer_2": "Unigram"}
_KINDS: Mapping[str, frozenset[str]] = {
    "normalizer": frozenset({
        "Sequence", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "Replace", "Strip", "StripAccents", "Prepend",
        "Precompiled", "ByteLevel", "BertNormalizer",
    }),
    "pre_tokenizer": frozenset({
        "Sequence", "Split", "ByteLevel", "Whitespace", "WhitespaceSplit", "Metaspace", "Punctuation", "Digits",
        "UnicodeScripts", "CharDelimiterSplit", "BertPreTokenizer", "FixedLength",
    }),
    "post_processor": frozenset({"Sequence", "TemplateProcessing", "RobertaProcessing", "BertProcessing", "ByteLevel"}),
    "decoder": frozenset({
        "Sequence", "ByteLevel", "Metaspace", "WordPiece", "BPEDecoder", "CTC", "Replace", "Fuse", "Strip",
        "ByteFallback",
    }),
}  # fmt: skip
_INSIDE = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
_KEYS = ("version", "truncation", "padding", "added_tokens", *_KINDS, "model")
_PATIENCE = 300.0
"""Seconds. FLUX.1-dev's takes a quarter of one on a machine that does nothing else."""

# Every character there is goes through the normalizer, since a damaged table fails at some only.
_TRY = """
import os, sys
if len(sys.argv) > 1:
    from transformers import T5Tokenizer
    tokenizer = T5Tokenizer.from_pretrained(sys.argv[1], local_files_only=True)._tokenizer
else:
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_str(sys.stdin.buffer.read().decode())
text = ''.join(chr(c) + ' ' for c in range(1, 0x20000) if not 0xd800 <= c < 0xe000)
if tokenizer.normalizer is not None:
    tokenizer.normalizer.normalize_str(text)
tokenizer.encode('A caf\\u00e9 at night, \\u96ea, 360\\u00b0 \\U0001f30d e\\u0301.')
"""
_right: set[str] = set()
"""Hashes of what was tried and works."""


def check_vocabulary(part: str, folder: Path) -> None:
    """Raises ModelError if a tokenizer's folder lacks what its tokens are read from."""
    if not any((folder / name).is_file() for name in VOCABULARIES[part]):
        raise ModelError(f"{folder} has no vocabulary ({' or '.join(VOCABULARIES[part])}); download the whole model.")


def check_tokenizer(part: str, folder: Path) -> None:
    """Raises ModelError for a tokenizer that cannot be one of FLUX's, or at which its library fails."""
    check_vocabulary(part, folder)
    settings(folder)
    if (folder / "tokenizer.json").is_file():
        text = json.dumps(_described(part, folder / "tokenizer.json"))
        if _hash(text) not in _right | _own():
            _try(folder / "tokenizer.json", text.encode())
            _right.add(_hash(text))
    elif part == "tokenizer":
        _check_pairs(folder)
    elif (known := _hash((folder / "spiece.model").read_bytes())) not in _right:
        # The same compiled library reads the table of characters that lies in it.
        with _clean(part, folder) as clean:
            _try(folder / "spiece.model", b"", str(clean))
        _right.add(known)


def _try(file: Path, given: bytes, *arguments: str) -> None:
    """Reads a tokenizer in a process of its own. Raises ModelError if that fails, or does not end well."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TRY, *arguments],
            input=given,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            env=environment(HF_HUB_OFFLINE="1"),
        )
    except subprocess.TimeoutExpired as error:
        raise _no_tokenizer(file, f"it is not read within {_PATIENCE:.0f} s") from error
    except OSError:  # no process can be started here: it is loaded untried
        return
    if done.returncode:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        why = said[-1].strip()[:200] if done.returncode == 1 and said else "its library crashes"
        # transformers takes whatever is no SentencePiece model for one of tiktoken's.
        raise _no_tokenizer(file, "it is no SentencePiece model" if "tiktoken" in why else why)


def _check_pairs(folder: Path) -> None:
    """Raises ModelError unless a vocabulary is one from texts to numbers, with the pairs that are merged."""
    tokens = read_json(folder / "vocab.json")
    if not tokens or not all(type(number) is int and 0 <= number < 2**24 for number in tokens.values()):
        raise ModelError(f"{folder / 'vocab.json'} is no vocabulary from tokens to numbers; download it again.")
    if not (folder / "merges.txt").is_file():
        raise ModelError(f"{folder} has no merges.txt beside its vocab.json; download the whole model.")


def _no_tokenizer(file: Path, why: str) -> ModelError:
    return ModelError(f"{file} cannot be read as a tokenizer ({why}); download it again.")


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


@functools.cache
def _own() -> frozenset[str]:
    """Of the embedded model, whose tokenizers our tests have tried."""
    folder = Path(EMBEDDED_MODEL)
    files = {part: folder / part / "tokenizer.json" for part in VOCABULARIES}
    return frozenset(_hash(json.dumps(_described(part, file))) for part, file in files.items() if file.is_file())


def settings(folder: Path) -> dict[str, dict[str, Any]]:
    """File → what the configurations of a tokenizer say, as far as dit360 knows their keys. Raises ModelError."""
    found = {}
    for name, schema in (("tokenizer_config.json", TOKENIZER), ("special_tokens_map.json", SPECIAL_TOKENS)):
        if (folder / name).is_file():
            found[name] = checked(folder / name, read_json(folder / name), schema)
    return found


def longest_prompt(folder: Path, most: int) -> int:
    """Tokens that a tokenizer's folder says a prompt has, at most so many."""
    said = settings(folder).get("tokenizer_config.json", {}).get("model_max_length", most)
    return int(min(said, most))


def _described(part: str, file: Path) -> dict[str, Any]:
    """A tokenizer.json as far as it is one of FLUX's: no padding and no cuts, which are the pipeline's to choose."""
    found = read_json(file)
    if found.get("version") != "1.0":
        raise _odd(file, "version", found.get("version"), "1.0")
    for where, kinds in _KINDS.items():
        _check_kind(file, where, found.get(where), kinds)
    model = found.get("model")
    if not isinstance(model, dict) or model.get("type", _MODELS[part]) != _MODELS[part]:
        raise _odd(file, "model", model.get("type") if isinstance(model, dict) else model, _MODELS[part])
    if model.get("dropout"):
        raise _odd(file, "dropout", model["dropout"], "null: else a prompt would be read in another way each time")
    return {**{key: found[key] for key in _KEYS if key in found}, "padding": None, "truncation": None}


def _check_kind(file: Path, where: str, found: Any, kinds: frozenset[str], depth: int = 0) -> None:
    if found is None and not depth:
        return
    kind = found.get("type") if isinstance(found, dict) else found
    if not isinstance(found, dict) or not isinstance(kind, str) or kind not in kinds or depth > 8:
        raise _odd(file, where, kind, f"one of {', '.join(sorted(kinds))}")
    if kind == "Sequence":
        inside = found.get(_INSIDE[where])
        if not isinstance(inside, list):
            raise _odd(file, _INSIDE[where], inside, "a list")
        for one in inside:
            _check_kind(file, where, one, kinds, depth + 1)


def _odd(file: Path, key: str, value: Any, right: str) -> ModelError:
    return ModelError(
        f"{file} says that {key} is {brief(value)}, which cannot be in a FLUX model (it must be {right}); download it "
        "again."
    )


@contextlib.contextmanager
def _clean(part: str, folder: Path) -> Iterator[Path]:
    """A folder with what is known here of a tokenizer's files, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="dit360-tokenizer-") as place:
        clean = Path(place)
        for name, told in settings(folder).items():
            (clean / name).write_text(json.dumps(told), encoding="utf-8")
        if (folder / "tokenizer.json").is_file():
            text = json.dumps(_described(part, folder / "tokenizer.json"))
            (clean / "tokenizer.json").write_text(text, encoding="utf-8")
        else:
            for name in _PLAIN:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, clean / name)
        yield clean


def load_tokenizer(part: str, folder: Path, positions: int | None) -> Any:
    """A tokenizer, made from files that are clean copies.

    positions: that the text encoder has, for CLIP.

    Raises ModelError.
    """
    import transformers

    check_tokenizer(part, folder)
    cls: Any = transformers.CLIPTokenizer if part == "tokenizer" else transformers.T5Tokenizer
    with _clean(part, folder) as clean:
        try:
            made = cls.from_pretrained(str(clean), local_files_only=True)
        except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
            raise
        except BaseException as error:  # a PanicException of the compiled library is no Exception
            raise ModelError(
                f"{folder} cannot be read as a tokenizer ({first_line(error)}); download it again."
            ) from error
    made.name_or_path = str(folder)
    if positions is not None and made.model_max_length > positions:
        if made.model_max_length < 10**20:
            raise ModelError(
                f"{folder} says that model_max_length is {made.model_max_length}, and this model's text encoder has "
                f"{positions} positions; download it again."
            )
        made.model_max_length = positions
    return made


def check_numbers_of_tokens(folder: Path, tokenizer: Any, vocabulary: int) -> None:
    """Raises ModelError for a tokenizer that knows tokens for which a text encoder has no embedding."""
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= vocabulary:
        raise ModelError(
            f"{folder} makes tokens up to number {highest}, and this model's text encoder has {vocabulary}; download "
            "the whole of one model."
        )
