# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Makes the two tokenizers from captions: a small CLIP vocabulary (byte pairs) and a small T5 one (unigrams)."""

from __future__ import annotations

import json
import random

from tokenizers import Regex as Pattern
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from training.captions import HELD_OUT_PROMPTS, caption
from training.scenes import draw

CLIP_LENGTH = 77
T5_LENGTH = 64
_CLIP_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_OTHER_WORDS = (
    "wooden house river tree trees beach ice snow rain storm bridge tower church village street road garden flowers "
    "waterfall island boat ship moon sun star stars rock rocks hill hills valley canyon cave summer winter autumn "
    "spring warm cold dark bright blurry low quality ugly bad and or not very small large red green blue white black"
)


def corpus(size: int = 20_000, seed: int = 5) -> list[str]:
    """Captions in lower case, with a few words beyond them so that unseen prompts split into sensible pieces."""
    dice = random.Random(seed)
    lines = [caption(draw(dice.randrange(10**9)), dice).lower() for _ in range(size)]
    return lines + 20 * _OTHER_WORDS.split() + [prompt.lower() for prompt in HELD_OUT_PROMPTS]


def clip_tokenizer(lines: list[str], merges: int = 700) -> CLIPTokenizer:
    """Byte pairs as CLIP's: every byte with and without the end-of-word mark, then merges; end-of-text is last.

    CLIPTextModel reads the pooled output at the end-of-text token, which must therefore have the highest id.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=512 + merges,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Pattern(_CLIP_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.train_from_iterator(lines, trainer)
    pairs = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = letters + [letter + "</w>" for letter in letters]
    words += [word for word in dict.fromkeys(a + b for a, b in pairs) if word not in set(words)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=CLIP_LENGTH)


def t5_tokenizer(lines: list[str], size: int = 1000) -> T5Tokenizer:
    """Unigrams over lower-case, capitalised and upper-case words, and every printable ASCII character alone.

    A T5 tokenizer has no lower-casing step, so capitals must be in its vocabulary.
    """
    lines = lines + [line.capitalize() for line in lines[::2]] + [line.title() for line in lines[::5]]
    lines += [line.upper() for line in lines[::10]]
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    tokenizer.train_from_iterator(lines, trainer)
    learned = json.loads(tokenizer.to_str())["model"]["vocab"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(word, score) for word, score in learned if word not in ("<pad>", "</s>", "<unk>")]
    known = {word for word, _ in pieces}
    lowest = min(score for _, score in pieces)
    pieces += [(chr(code), lowest - 1) for code in range(33, 127) if chr(code) not in known]
    if "▁" not in known:
        pieces.append(("▁", lowest - 1))
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)
