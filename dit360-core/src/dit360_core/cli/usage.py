"""Command lines that cannot be read: what was meant, as far as that can be seen."""

from __future__ import annotations

import difflib
import itertools
import re
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from dit360_core.cli import precedence, wording
from dit360_core.cli.helping import EVERY, overview, page
from dit360_core.cli.output import BAD_INPUT, harmless
from dit360_core.options import decimal_hint

UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""Of whichever click typer has; some versions bring their own."""

ELSEWHERE = {
    "cfg": "guidance", "cfg-scale": "guidance", "guidance-scale": "guidance", "scale": "guidance",
    "true-cfg-scale": "true-guidance", "num-inference-steps": "steps", "num-steps": "steps", "n-steps": "steps",
    "sampling-steps": "steps", "scheduler": "scheduler-type", "sampler": "scheduler-type", "solver": "scheduler-type",
    "quantization": "quantization-mode", "quantize": "quantization-mode", "quant": "quantization-mode",
    "attention": "attention-backend", "attn": "attention-backend", "attn-implementation": "attention-backend",
    "dtype": "precision", "torch-dtype": "precision", "negative": "negative-prompt", "neg-prompt": "negative-prompt",
    "out": "output", "outfile": "output", "output-dir": "output", "save": "output", "overwrite": "force",
    "init-image": "image", "input": "image", "strength": "denoise", "denoising-strength": "denoise",
    "lowvram": "preset", "low-vram": "preset", "medvram": "preset", "memory": "vram", "gpu-memory": "vram",
    "cpu-offload": "offload", "tiling": "tiling-mode", "vae-tiling": "tiling-mode", "size": "width",
    "resolution": "width", "w": "width", "h": "height", "yes": "force", "y": "force", "lora-scale": "lora-strength",
    "lora-weight": "lora-strength", "compile": "compile-blocks", "system-memory": "ram", "host-memory": "ram",
}  # fmt: skip
"""Flag of other programs → ours."""

SETTINGS: dict[str, Any] = {
    "help_option_names": ["--help", "-h"],
    # --true_guidance is as good as --true-guidance.
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


def _told(error: Any) -> typer.Exit:
    """Says what is wrong below the usage, in lines that no box breaks."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if error.ctx is not None:
        console.print(error.ctx.get_usage(), markup=False, soft_wrap=True)
    ours = type(error).__name__ in ("UsageError", "NoSuchOption")
    sentence = error.message if ours else error.format_message()
    console.print(harmless(f"Error: {sentence}"), style="red", markup=False, soft_wrap=True)
    return typer.Exit(BAD_INPUT)


def _decimal_comma(error: Any, given: list[str]) -> str | None:
    """The value with a decimal comma that an option for a number was given; typer's versions word the error each."""
    parameter = getattr(error, "param", None)
    if parameter is None or not re.search(r"\b(number|float)\b", str(error.message)):
        return None
    for word, following in itertools.zip_longest(given, given[1:], fillvalue=""):
        name, sign, value = word.partition("=")
        value = value if sign else following
        if name.replace("_", "-") in parameter.opts and decimal_hint(value):
            return value
    return None


def _behind(option: str, given: list[str]) -> str:
    """The value that stands behind an option, or FILE."""
    for word, following in itertools.pairwise([*given, "FILE"]):
        name, sign, value = word.partition("=")
        if name == option:
            return value if sign else following
    return "FILE"


PROMPT = 'the prompt is an argument without a flag: dit360 {0} "a castle at sunset"'


class Command(TyperCommand):
    """A command that says what was meant."""

    def __init__(self, *args: Any, **more: Any) -> None:
        more["context_settings"] = {**SETTINGS, **(more.get("context_settings") or {})}
        super().__init__(*args, **more)
        for option in self.params:
            # A user's own defaults may have switched it on.
            if getattr(option, "is_flag", False) and not option.secondary_opts:
                option.secondary_opts = [wording.off_of(max(option.opts, key=len))]

    def get_help(self, ctx: Any) -> str:
        return page(self, ctx, every=False)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # a shell asks what completes a word: nothing is printed, and nothing is wrong yet
            return super().parse_args(ctx, args)
        given = list(args)
        if EVERY in itertools.takewhile(lambda word: word != "--", given):
            typer.echo(page(self, ctx, every=True), nl=False)
            ctx.exit()
        own = {parameter.name: max(parameter.opts, key=len) for parameter in self.params if parameter.opts}
        named = {name: text for name, text in own.items() if text.startswith("--")}
        wording.begin(named, given)
        try:
            self._look(ctx, given)
            left = super().parse_args(ctx, args)
            wording.take(precedence.settle(self, ctx))
            if "like" in ctx.params and ctx.params["prompt"] is None and ctx.params["like"] is None:
                raise UsageError(f"There is no prompt; {PROMPT.format(self.name)}", ctx=ctx)
            return left
        except UsageError as error:
            if str(error.message).startswith("Got unexpected extra"):
                error.message = self._extra(ctx, given)
            elif type(error).__name__ == "NoSuchOption":
                error.message = self._no_option(ctx, error.option_name, given)
            elif type(error).__name__ == "MissingParameter":
                error = UsageError(self._missing(error), ctx=ctx)
            elif (commas := _decimal_comma(error, given)) is not None:
                error.message = f"{commas!r} is no number{decimal_hint(commas)}."
            raise _told(error) from error

    def _missing(self, error: Any) -> str:
        """What stands for an argument or an option that must be given and is not."""
        name = error.param.name
        if name == "prompt":
            return f"There is no prompt; {PROMPT.format(self.name)}"
        what = max(error.param.opts, key=len) if error.param.param_type_name == "option" else name.upper()
        return f"dit360 {self.name} needs {what}; 'dit360 {self.name} --help' tells what that is."

    @property
    def _flags(self) -> list[str]:
        return [text for parameter in self.params for text in (*parameter.opts, *parameter.secondary_opts)]

    def _look(self, ctx: Any, given: list[str]) -> None:
        """Raises UsageError for a long option with one dash, which would be read as many short ones."""
        short = {text[1] for text in (*self._flags, "-h") if re.fullmatch(r"-\w", text)}
        ahead = iter(given)
        for word in ahead:
            if word == "--":
                return
            if self._takes_value(word):
                next(ahead, None)
            elif re.fullmatch(r"-[A-Za-z][A-Za-z_-]+(=.*)?", word) and not set(word[1:3]) <= short:
                name = f"-{word.partition('=')[0]}".replace("_", "-")
                if word[1] in short and name not in self._flags:
                    continue  # -ofile.jpg
                raise UsageError(self._no_option(ctx, word.partition("=")[0], given, name), ctx=ctx)

    def _takes_value(self, word: str) -> bool:
        name = word.replace("_", "-")
        return any(
            name in (*parameter.opts, *parameter.secondary_opts)
            and parameter.param_type_name == "option"
            and not getattr(parameter, "is_flag", False)
            for parameter in self.params
        )

    def _no_option(self, ctx: Any, typed: str, given: list[str], name: str = "") -> str:
        """What is said of an option that this command has not.

        name: what was likely meant; else as it was typed.
        """
        name = name or typed
        if name not in (text for option in ctx.find_root().command.params for text in option.opts):
            return f"There is no option {typed}; {self._near(ctx, name)}"
        where = "" if name == "--version" else f" {self.name} …"
        value = _behind(typed, given) if name == "--config" else ""
        return f"{name} stands before the command: dit360 {name}{value and f' {value}'}{where}"

    def _near(self, ctx: Any, name: str) -> str:
        plain = name.lstrip("-").replace("_", "-").lower()
        takes_prompt = any(p.name == "prompt" and p.param_type_name == "argument" for p in self.params)
        if takes_prompt and plain in ("prompt", "p", "text"):
            return PROMPT.format(self.name)
        ours = f"--{ELSEWHERE.get(plain, plain)}"
        if ours in self._flags:
            return f"did you mean {ours}?"
        near = difflib.get_close_matches(f"--{plain}", [text for text in self._flags if text[:2] == "--"], n=3)
        return f"did you mean {' or '.join(near)}?" if near else f"'dit360 {self.name} --help' lists them."

    def _extra(self, ctx: Any, given: list[str]) -> str:
        opts, extra, _ = self.make_parser(ctx).parse_args(args=list(given))
        first = next(p.name for p in self.params if p.param_type_name == "argument") if self._arguments else None
        told = " ".join(extra)
        before = given[given.index(extra[0]) - 1] if extra[0] in given[1:] else ""
        if before.startswith("--") and not self._takes_value(before):
            return f"{before.replace('_', '-')} takes no value, and {extra[0]!r} stands behind it; leave it out."
        if first == "prompt":
            prompt = str(opts.get("prompt") or "")
            if " " in prompt.strip():
                return f"There is a second prompt, {told!r}; one picture has one (dit360 batch makes many from a list)."
            return f'The prompt has several words; put the prompt in quotes: dit360 {self.name} "{prompt} {told}"'
        if first is None:
            return (
                f"dit360 {self.name} takes options only, and {told!r} is none; 'dit360 {self.name} --help' lists them."
            )
        # Two pictures are two to look at; a picture and another name are likely where from and where to.
        another = Path(str(opts.get(first) or "")).suffix != Path(extra[0]).suffix or not Path(extra[0]).suffix
        if "--output" in self._flags and opts.get("output") is None and another:
            return (
                f"dit360 {self.name} takes one argument, and {told!r} is another; say where to write with -o {extra[0]}"
            )
        more = " If it is one name with spaces, put it in quotes." if first else ""
        return f"dit360 {self.name} takes one argument, and {told!r} is another; run it once for each.{more}"

    @property
    def _arguments(self) -> list[str]:
        return [parameter.name for parameter in self.params if parameter.param_type_name == "argument"]


class Group(TyperGroup):
    """All commands. One that is not there is named with its nearest."""

    def __init__(self, *args: Any, **more: Any) -> None:
        more["context_settings"] = {**SETTINGS, **(more.get("context_settings") or {})}
        super().__init__(*args, **more)

    def get_help(self, ctx: Any) -> str:
        return overview(self, ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            if type(error).__name__ == "NoSuchOption":
                error.message = f"There is no option {error.option_name} before a command; options stand behind it, as "
                error.message += 'in: dit360 generate "a castle at sunset" --width 1024'
            raise _told(error) from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        name = args[0]
        found = self.commands.get(name) or self.commands.get(name.replace("_", "-"))
        if found is None and not name.startswith("-"):
            meant = {"paint": "generate", "gen": "generate", "create": "generate", "make": "generate"}.get(name.lower())
            near = [meant] if meant else difflib.get_close_matches(name.lower(), list(self.commands), n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(self.commands)}."
            if " " in name.strip():
                hint = f'for a picture of it: dit360 generate "{name}"'
            raise _told(UsageError(f"There is no command {name!r}; {hint}", ctx=ctx))
        return super().resolve_command(ctx, args)
