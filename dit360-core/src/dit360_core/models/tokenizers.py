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

import attrs

from dit360_core.errors import ModelError, first_line
from dit360_core.models.weights.schema import (
    FLAG,
    Schema,
    Value,
    brief,
    checked,
    list_of,
    number,
    one_of,
    read_json,
    texts,
    whole,
)
from dit360_core.system.children import environment

_PLAIN = ("vocab.json", "merges.txt", "spiece.model", "added_tokens.json")
_PLENTY = 2 * 10**30
"""A round number above what transformers writes for "no limit"."""
_SPECIAL = Value(
    lambda value: texts(256).holds(value.get("content") if isinstance(value, dict) else value),
    "a text of at most 256 characters, or an object with one as its content",
)
_SPECIALS = {name: _SPECIAL.or_none() for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
_SPECIAL_TOKENS = Schema({**_SPECIALS, "additional_special_tokens": list_of(_SPECIAL, 0, 10_000).or_none()})


@attrs.frozen(kw_only=True)
class TokenizerKind:
    """A tokenizer of a family's models.

    title: the family's, as in "a FLUX model".
    classes: of transformers, as files may name them; the first is what is made.
    vocabularies: what transformers needs beside its configuration, one of these, to make one.
    model: ``type`` of the model in a tokenizer.json.
    own: folders of tokenizers that come with the program, which need no trial.
    """

    title: str
    classes: tuple[str, ...]
    vocabularies: tuple[str, ...] = ("tokenizer.json", "vocab.json")
    model: str = "BPE"
    own: tuple[Path, ...] = ()

    @property
    def schema(self) -> Schema:
        """The keys of its tokenizer_config.json."""
        return Schema(
            {
                **_SPECIALS,
                "model_max_length": number(1, _PLENTY),
                "tokenizer_class": one_of(*self.classes),
                "extra_ids": whole(0, 10_000),
                "add_prefix_space": FLAG.or_none(),
                "do_lower_case": FLAG.or_none(),
                "errors": one_of("replace", "strict", "ignore"),
                "padding_side": one_of("right", "left"),
                "truncation_side": one_of("right"),
                "additional_special_tokens": list_of(_SPECIAL, 0, 10_000).or_none(),
                "extra_special_tokens": _EXTRA.or_none(),
                "added_tokens_decoder": Value(
                    lambda value: (
                        isinstance(value, dict)
                        and all(
                            key.isdecimal() and isinstance(token, dict) and _SPECIAL.holds(token)
                            for key, token in value.items()
                        )
                    ),
                    "an object from token numbers to tokens",
                ),
            },
            _IGNORED,
        )


_EXTRA = Value(
    lambda value: list_of(_SPECIAL, 0, 10_000).holds(list(value.values()) if isinstance(value, dict) else value),
    "a list of at most 10000 tokens, or an object with such as its values",
)
_IGNORED = frozenset({
    "backend", "is_local", "local_files_only", "clean_up_tokenization_spaces", "name_or_path", "processor_class",
    "special_tokens_map_file", "sp_model_kwargs", "legacy", "vocab_file", "merges_file", "tokenizer_file",
    "tokenizer_type", "chat_template", "unk_id", "add_special_tokens", "split_special_tokens", "add_bos_token",
    "add_eos_token", "use_default_system_prompt",
})  # fmt: skip


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
    import transformers
    kind = getattr(transformers, sys.argv[2])
    tokenizer = kind.from_pretrained(sys.argv[1], local_files_only=True)._tokenizer
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


def check_vocabulary(kind: TokenizerKind, folder: Path) -> None:
    """Raises ModelError if a tokenizer's folder lacks what its tokens are read from."""
    if not any((folder / name).is_file() for name in kind.vocabularies):
        raise ModelError(f"{folder} has no vocabulary ({' or '.join(kind.vocabularies)}); download the whole model.")


def check_tokenizer(kind: TokenizerKind, folder: Path) -> None:
    """Raises ModelError for a tokenizer that cannot be one of its kind, or at which its library fails."""
    check_vocabulary(kind, folder)
    settings(kind, folder)
    if (folder / "tokenizer.json").is_file():
        text = json.dumps(_described(kind, folder / "tokenizer.json"))
        if _hash(text) not in _right | _own(kind):
            _try(folder / "tokenizer.json", text.encode())
            _right.add(_hash(text))
    elif "spiece.model" not in kind.vocabularies:
        _check_pairs(folder)
    elif (known := _hash((folder / "spiece.model").read_bytes())) not in _right:
        # The same compiled library reads the table of characters that lies in it.
        with _clean(kind, folder) as clean:
            _try(folder / "spiece.model", b"", str(clean), kind.classes[0])
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
def _own(kind: TokenizerKind) -> frozenset[str]:
    """Of tokenizers that come with the program, which our tests have tried."""
    files = [folder / "tokenizer.json" for folder in kind.own]
    return frozenset(_hash(json.dumps(_described(kind, file))) for file in files if file.is_file())


def settings(kind: TokenizerKind, folder: Path) -> dict[str, dict[str, Any]]:
    """File → what the configurations of a tokenizer say, as far as dit360 knows their keys. Raises ModelError."""
    found = {}
    for name, schema in (("tokenizer_config.json", kind.schema), ("special_tokens_map.json", _SPECIAL_TOKENS)):
        if (folder / name).is_file():
            found[name] = checked(folder / name, read_json(folder / name), schema)
    return found


def longest_prompt(kind: TokenizerKind, folder: Path, most: int) -> int:
    """Tokens that a tokenizer's folder says a prompt has, at most so many."""
    said = settings(kind, folder).get("tokenizer_config.json", {}).get("model_max_length", most)
    return int(min(said, most))


def _described(kind: TokenizerKind, file: Path) -> dict[str, Any]:
    """A tokenizer.json as far as it is of its kind: no padding and no cuts, which are the pipeline's to choose."""
    found = read_json(file)
    if found.get("version") != "1.0":
        raise _odd(kind, file, "version", found.get("version"), "1.0")
    for where, kinds in _KINDS.items():
        _check_kind(kind, file, where, found.get(where), kinds)
    model = found.get("model")
    if not isinstance(model, dict) or model.get("type", kind.model) != kind.model:
        raise _odd(kind, file, "model", model.get("type") if isinstance(model, dict) else model, kind.model)
    if model.get("dropout"):
        why = "null: else a prompt would be read in another way each time"
        raise _odd(kind, file, "dropout", model["dropout"], why)
    return {**{key: found[key] for key in _KEYS if key in found}, "padding": None, "truncation": None}


def _check_kind(kind: TokenizerKind, file: Path, where: str, found: Any, kinds: frozenset[str], depth: int = 0) -> None:
    if found is None and not depth:
        return
    type_ = found.get("type") if isinstance(found, dict) else found
    if not isinstance(found, dict) or not isinstance(type_, str) or type_ not in kinds or depth > 8:
        raise _odd(kind, file, where, type_, f"one of {', '.join(sorted(kinds))}")
    if type_ == "Sequence":
        inside = found.get(_INSIDE[where])
        if not isinstance(inside, list):
            raise _odd(kind, file, _INSIDE[where], inside, "a list")
        for one in inside:
            _check_kind(kind, file, where, one, kinds, depth + 1)


def _odd(kind: TokenizerKind, file: Path, key: str, value: Any, right: str) -> ModelError:
    return ModelError(
        f"{file} says that {key} is {brief(value)}, which cannot be in a {kind.title} model (it must be {right}); "
        "download it again."
    )


@contextlib.contextmanager
def _clean(kind: TokenizerKind, folder: Path) -> Iterator[Path]:
    """A folder with what is known here of a tokenizer's files, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="dit360-tokenizer-") as place:
        clean = Path(place)
        for name, told in settings(kind, folder).items():
            (clean / name).write_text(json.dumps(told), encoding="utf-8")
        if (folder / "tokenizer.json").is_file():
            text = json.dumps(_described(kind, folder / "tokenizer.json"))
            (clean / "tokenizer.json").write_text(text, encoding="utf-8")
        else:
            for name in _PLAIN:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, clean / name)
        yield clean


def load_tokenizer(kind: TokenizerKind, folder: Path, positions: int | None = None) -> Any:
    """A tokenizer, made from files that are clean copies.

    positions: that the text encoder has, where it has no more than it learned.

    Raises ModelError.
    """
    import transformers

    check_tokenizer(kind, folder)
    cls: Any = getattr(transformers, kind.classes[0])
    with _clean(kind, folder) as clean:
        try:
            made = cls.from_pretrained(str(clean), local_files_only=True)
        except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
            raise
        except BaseException as error:  # a PanicException of the compiled library is no Exception
            raise ModelError(
                f"{folder} cannot be read as a tokenizer ({first_line(error)}); download it again."
            ) from error
    made.name_or_path = str(folder)
    if made.pad_token_id is None:
        raise ModelError(f"{folder} names no pad_token, with which prompts are filled up; download it again.")
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
