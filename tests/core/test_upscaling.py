"""Larger pictures: detail in windows, and runs that are stopped and go on to the same picture, bit by bit."""

import json
import random
import re

import dit360_core as dit360
import numpy as np
import pytest
import torch
from command_line import dit360 as run_in
from dit360_core.cli import app
from dit360_core.errors import InputError
from dit360_core.options import SampleOptions, changed_options
from dit360_core.options.usual import USUAL_LARGER
from dit360_core.panorama.levels import eight_bits, floats_of
from dit360_core.panorama.light import to_light, to_srgb_code
from dit360_core.panorama.resizing import enlarged, faithful_to, resampled, resized
from dit360_core.pipeline.journal import Recorded, journal
from dit360_core.planning.larger import source_told
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

ASKED = {"to": 256, "seed": 3, "steps": 3, "windows": "128x64"}


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def small(tiny):
    return tiny.generate("a castle above a meadow at sunset", width=128, steps=4, seed=1)


@pytest.fixture(scope="module")
def large(tiny, small):
    return tiny.upscale(small, **ASKED)


def pixels(panorama):
    return np.asarray(panorama.image)


# ------------------------------------------------------------------------------------------------------ resampling


def test_light_is_that_of_srgb():
    """Values of IEC 61966-2-1."""
    known = {0.0: 0.0, 0.04045: 0.0031308, 0.5: 0.2140411, 0.75: 0.5225216, 1.0: 1.0}
    coded = np.array(list(known), np.float32)
    assert np.abs(to_light(coded) - list(known.values())).max() < 1e-6
    assert (
        np.abs(to_srgb_code(to_light(np.linspace(0, 1, 257, dtype=np.float32))) - np.linspace(0, 1, 257)).max() < 1e-5
    )


def test_black_and_white_mix_to_half_of_the_light_and_not_of_the_numbers():
    lines = np.zeros((64, 128, 3), np.uint8)
    lines[:, ::2] = 255
    mixed = enlarged(floats_of(lines), (16, 8))
    assert abs(255 * mixed.mean() - 188) <= 1


def test_what_is_one_place_stays_one_place():
    x = np.linspace(0, 2 * np.pi, 129)[:-1]
    wave = np.stack([(0.5 + 0.4 * np.sin(x + turn)) * np.ones((64, 1)) for turn in (0, 1, 2)], axis=-1)
    made = enlarged(wave.astype(np.float32), (512, 256))
    rolled = enlarged(np.roll(wave, 32, 1).astype(np.float32), (512, 256))
    assert np.abs(np.roll(made, 128, 1) - rolled).max() < 1e-4
    assert np.abs(made[:, 0] - made[:, -1]).max() < 0.01


@pytest.mark.parametrize(("width", "to"), [(2, 64), (8, 2), (16, 32), (46, 64), (64, 8)])
def test_the_filter_reaches_over_the_meridian_however_narrow_a_picture_is(width, to):
    """As of several of it beside each other, of which the middle one is looked at."""
    one = np.random.default_rng(0).random((width // 2, width), dtype=np.float32)
    beside = Image.fromarray(np.tile(one, (1, 31)))
    box = (15 * width, 0, 16 * width, width // 2)
    wanted = np.asarray(beside.resize((to, to // 2), Image.Resampling.LANCZOS, box=box))
    made = np.asarray(resized(Image.fromarray(one), (to, to // 2), Image.Resampling.LANCZOS))
    assert np.abs(made - wanted).max() < 1e-5


# ---------------------------------------------------------------------------------------------------------- pictures


def test_a_larger_picture_is_the_same_with_new_detail(large, small):
    assert large.size == (256, 128)
    used, requested = large.settings["used"], large.settings["requested"]
    assert large.settings["prompt"] == small.settings["prompt"]
    assert (used["windows"]["count"], used["denoise"], requested["windows"]) == (9, 0.35, "128x64")
    plain = np.asarray(resized(small.image, (256, 128), Image.Resampling.LANCZOS)).astype(float)
    off = np.abs(pixels(large).astype(float) - plain).mean()
    assert 0.3 < off < 25


def reduced(panorama, size=(128, 64)):
    return resampled(panorama.floats, size)


def test_a_larger_picture_tells_of_what_it_was_made(large):
    assert large.settings["enlarged"] == {"from": {"file": "", "width": 128, "height": 64}}


def test_what_the_smaller_picture_shows_stays(tiny, small, large):
    """Reduced again, the larger picture is the smaller one, and what is finer is new."""
    free = tiny.upscale(small, **ASKED, faithful="never")
    assert large.settings["used"]["faithful"] is True
    assert "faithful" not in large.settings["requested"]
    assert (free.settings["used"]["faithful"], free.settings["requested"]["faithful"]) == (False, "never")
    # Where a value would lie outside of 0 … 1 it is cut, which is all that is missing.
    assert np.percentile(np.abs(reduced(large) - small.floats), 99) < 0.004
    assert np.abs(reduced(free) - small.floats).mean() > 10 * np.abs(reduced(large) - small.floats).mean()
    nothing_new = faithful_to(enlarged(small.floats, (256, 128)), small.floats)
    assert np.abs(large.floats - nothing_new).mean() > 0.0005


def test_a_picture_of_which_most_is_made_anew_keeps_nothing_unless_asked(tiny, small):
    asked = {**ASKED, "denoise": 0.7}
    free, kept = tiny.upscale(small, **asked), tiny.upscale(small, **asked, faithful="always")
    assert free.settings["used"]["faithful"] is False
    assert np.abs(reduced(free) - small.floats).mean() > 5 * np.abs(reduced(kept) - small.floats).mean()


def test_what_is_finer_than_the_smaller_picture_is_not_touched():
    """A wave of which the smaller picture can hold nothing stays; one that it holds becomes the smaller picture's."""
    x = np.arange(256)
    fine = 0.5 + 0.2 * np.cos(np.pi * x) * np.ones((128, 1))
    broad = 0.2 * np.sin(2 * np.pi * 3 * x / 256) * np.ones((128, 1))
    larger = np.repeat((fine + broad)[..., None], 3, -1).astype(np.float32)
    smaller = np.full((64, 128, 3), 0.5, np.float32)
    kept = faithful_to(larger, smaller)
    assert np.abs(kept - np.repeat(fine[..., None], 3, -1)).max() < 0.005
    turned = faithful_to(np.roll(larger, 64, 1), np.roll(smaller, 32, 1))
    assert np.abs(np.roll(kept, 64, 1) - turned).max() < 1e-5


@pytest.mark.parametrize("width", [132, 160, 256, 512, 1024])
def test_the_smaller_picture_comes_back_at_every_ratio(width, small):
    """Of what lies well inside of 0 … 1, so that nothing is cut; a level of 8 bits is 0.004."""
    inside = (0.25 + 0.5 * small.floats).astype(np.float32)
    larger = np.roll(enlarged(inside, (width, width // 2)), width // 16, axis=1)  # that shows something else
    kept = larger.copy()
    assert faithful_to(kept, inside, out=kept) is kept
    before, after = (np.abs(resampled(one, (128, 64)) - inside).mean() for one in (larger, kept))
    assert after < min(0.001, before / 4)


def test_nothing_is_made_anew_where_the_mask_is_black(tiny, small):
    mask = Image.new("L", (128, 64))
    mask.paste(255, (0, 0, 64, 64))
    plain = enlarged(small.floats, (256, 128))
    for faithful, kept in (("auto", faithful_to(plain, small.floats)), ("never", plain)):
        made = tiny.upscale(small, mask=mask, **ASKED, faithful=faithful)
        off = np.abs(pixels(made).astype(int) - eight_bits(kept).astype(int))
        assert off[44:84, 170:215].max() == 0
        assert off[44:84, 40:90].max() > (2 if faithful == "never" else 0)
        if faithful == "auto":
            # Beside the mask's border too, where what is made passes into what is kept.
            assert np.percentile(np.abs(reduced(made) - small.floats), 99) < 0.01


def test_steps_are_the_models_own_times_the_share(tiny, small):
    asked = {name: value for name, value in ASKED.items() if name != "steps"}
    assert tiny.upscale(small, **asked, denoise=0.2).settings["used"]["steps"] == 6


# ---------------------------------------------------------------------------------------------------------- stopped


@pytest.mark.parametrize("scheduler", ["flow_match", "dpmpp_2m", "unipc", "heun"])
def test_a_run_that_was_stopped_goes_on_to_the_same_picture(scheduler, tiny, small, tmp_path):
    state = tmp_path / "x.state"
    more = {**ASKED, "scheduler_type": scheduler}
    whole = pixels(tiny.upscale(small, **more))
    for after in (1, 2):

        def stop(done, steps, after=after):
            if done == after:
                raise Stopped

        with pytest.raises(Stopped):
            tiny.upscale(small, state=state, progress=stop, **more)
    asked = count_of(tiny)
    assert np.array_equal(pixels(tiny.upscale(small, state=state, **more)), whole)
    assert asked() < (30 if scheduler == "heun" else 20)
    assert not state.exists()


def count_of(pipe):
    """How often the denoiser runs from now on."""
    calls = []
    hook = pipe.engine.denoiser.register_forward_hook(lambda *_: calls.append(1))

    def counted():
        hook.remove()
        return len(calls)

    return counted


def test_cut_off_at_any_byte_it_goes_on_to_the_same_picture(tiny, small, large, tmp_path):
    """As a process that is killed leaves it."""
    state = tmp_path / "x.state"

    def stop(done, steps):
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        tiny.upscale(small, state=state, progress=stop, **ASKED)
    whole = state.read_bytes()
    draw = random.Random(5)
    for cut in (0, 3, 15, 40, *(draw.randrange(len(whole)) for _ in range(16))):
        state.write_bytes(whole[:cut])
        assert np.array_equal(pixels(tiny.upscale(small, state=state, **ASKED)), pixels(large)), cut
    damaged = bytearray(whole)
    damaged[-20000] ^= 255
    state.write_bytes(bytes(damaged))
    assert np.array_equal(pixels(tiny.upscale(small, state=state, **ASKED)), pixels(large))


def test_the_seed_that_was_drawn_is_kept(tiny, small, tmp_path):
    state = tmp_path / "x.state"
    more = {name: value for name, value in ASKED.items() if name != "seed"}

    def stop(done, steps):
        raise Stopped

    with pytest.raises(Stopped):
        tiny.upscale(small, state=state, progress=stop, **more)
    drawn = json.loads(state.read_bytes().split(b"\n")[1])["drawn"]["seed"]
    assert tiny.upscale(small, state=state, **more).settings["used"]["seed"] == drawn


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompt": "a desert"}, "of another prompt"),
        ({"steps": 4}, "of another steps"),
        ({"to": 512}, "of another height and picture and width"),
        ({"seed": 4}, "of another seed"),
        ({"faithful": "never"}, "of another faithful and picture"),
    ],
)
def test_the_state_of_another_run_is_told_and_stays(changed, said, tiny, small, tmp_path):
    state = tmp_path / "x.state"

    def stop(done, steps):
        raise Stopped

    with pytest.raises(Stopped):
        tiny.upscale(small, state=state, progress=stop, **ASKED)
    before = state.read_bytes()
    with pytest.raises(InputError, match=said):
        tiny.upscale(small, state=state, **{**ASKED, **changed})
    assert state.read_bytes() == before


def test_the_state_of_another_text_encoder_or_of_other_weights_is_told(tiny, small, tiny_copy, tmp_path):
    state = tmp_path / "x.state"

    def stop(done, steps):
        raise Stopped

    begun = dit360.load(str(tiny_copy))
    with pytest.raises(Stopped):
        begun.upscale(small, state=state, progress=stop, **ASKED)
    other = dit360.load(str(tiny_copy), t5=str(tiny_copy / "text_encoder_2"))
    with pytest.raises(InputError, match="of another t5 and weights"):
        other.upscale(small, state=state, **ASKED)
    file = next((tiny_copy / "transformer").glob("*.safetensors"))
    tensors = load_file(file)
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, file)
    with pytest.raises(InputError, match="of another weights"):
        begun.upscale(small, state=state, **ASKED)


def test_what_decides_about_no_number_may_change(tiny, small, large, tmp_path):
    state = tmp_path / "x.state"

    def stop(done, steps):
        raise Stopped

    with pytest.raises(Stopped):
        tiny.upscale(small, state=state, progress=stop, **ASKED)
    assert np.array_equal(pixels(tiny.upscale(small, state=state, log_memory_stats=True, **ASKED)), pixels(large))


def test_the_state_may_stay_until_the_picture_is_saved(tiny, small, large, tmp_path):
    state = tmp_path / "x.state"
    tiny.upscale(small, state=state, keep_state=True, **ASKED)
    whole = state.read_bytes()
    assert np.array_equal(pixels(tiny.upscale(small, state=state, keep_state=True, **ASKED)), pixels(large))
    assert state.read_bytes() == whole  # nothing was computed anew
    tiny.upscale(small, state=state, **ASKED)
    assert not state.exists()


@pytest.mark.parametrize(
    "text", [b"something else\n", b"dit360 state 2\nnonsense\n", b"dit360 state 2\n[]\n", b"\0" * 99]
)
def test_another_file_in_the_place_of_the_state_is_not_touched(text, tiny, small, tmp_path):
    state = tmp_path / "x.state"
    state.write_bytes(text)
    with pytest.raises(InputError, match=r"x.state is no state of a run"):
        tiny.upscale(small, state=state, **ASKED)
    assert state.read_bytes() == text


def test_the_state_of_a_run_that_had_no_answer_keeps_nobody_from_another(tiny, small, large, tmp_path):
    state = tmp_path / "x.state"
    with pytest.raises(Stopped), journal(state, {"picture": "another"}, {"seed": 1}):
        raise Stopped
    assert state.exists()
    assert np.array_equal(pixels(tiny.upscale(small, state=state, **ASKED)), pixels(large))


def test_two_programs_do_not_write_one_state(tmp_path):
    pytest.importorskip("fcntl", reason="this system keeps no program away from a file")
    with journal(tmp_path / "x", {}, {}), pytest.raises(InputError, match="Another program is writing"):
        journal(tmp_path / "x", {}, {}).__enter__()


def _kept(path, told):
    """A state with answers, as a run that was stopped leaves it."""
    with journal(path, told, {"seed": 1}, keep=True) as kept:
        kept.keep_latents(torch.zeros(2))
        kept.keep_answer(torch.ones(2))


def test_what_plugins_are_installed_besides_decides_about_no_number(tmp_path):
    chosen = {"requested": "auto", "used": "sdpa", "distribution": "dit360-core", "version": "1"}
    quantized = {**chosen, "used": "none", "parts": {"transformer": 3}}
    before = {"attention": {**chosen, "refused": {"x": [{"text": "is not there"}]}}, "quantization": quantized}
    _kept(tmp_path / "x", before)
    now = {"attention": {**chosen, "refused": {}}, "quantization": {**quantized, "refused": {"y": []}}}
    with journal(tmp_path / "x", now, {}, keep=True) as kept:
        assert kept.answers == 1
    for name, change in (("attention", {"version": "2"}), ("quantization", {"parts": {}})):
        other = {**now, name: {**now[name], **change}}
        with pytest.raises(InputError, match=f"of another {name}; run the same"):
            journal(tmp_path / "x", other, {}).__enter__()


def test_what_another_run_was_asked_is_told_before_anything_is_loaded(tmp_path):
    picture = Image.effect_noise((64, 32), 50).convert("RGB")
    picture.save(tmp_path / "s.png")
    Image.new("L", (64, 32), 255).save(tmp_path / "mask.png")
    asked = SampleOptions(**USUAL_LARGER, prompt="a sea", width=128, height=64, seed=1, steps=5)
    told = {**changed_options(asked), "mask": "", "source": source_told(picture.tobytes())}
    _kept(tmp_path / "t.png.state", told)
    _kept(tmp_path / "u.png.state", {**told, "source": source_told(b"")})
    command = ["upscale", "s.png", "a sea", "--to", "128", "--seed", "1", "-o", "t.png"]
    changes = {
        "seed": [*command, "--seed", "2"],
        "prompt": ["upscale", "s.png", "a lake", *command[3:]],
        "steps": [*command, "--steps", "4"],
        "width": ["upscale", "s.png", "a sea", "--to", "256", *command[5:]],
        "windows": [*command, "--windows", "128x64"],
        "mask": [*command, "--mask", "mask.png"],
        "picture": [*command[:-1], "u.png"],
    }
    for name, said in zip(changes, run_in(*changes.values(), cwd=tmp_path, without=("torch",)), strict=True):
        assert said.code == 2, (name, said.err)
        assert f".png.state is the state of a run that was stopped, of another {name};" in said.err
    pytest.importorskip("fcntl", reason="this system keeps no program away from a file")
    with journal(tmp_path / "v.png.state", told, {}):
        (busy,) = run_in([*command[:-1], "v.png"], cwd=tmp_path, without=("torch",))
    assert (busy.code, "Another program is writing v.png.state" in busy.err) == (2, True)


def test_a_folder_is_no_picture_to_make_larger(tmp_path):
    for name, said in zip((".", "/"), run_in(*(["upscale", name, "x", "--to", "512"] for name in (".", "/")),
                                             cwd=tmp_path, without=("torch",)), strict=True):  # fmt: skip
        assert said.err == f"Error: Cannot open {name}: it is a folder; name the picture in it.\n"
        assert said.code == 2


def test_bits_of_a_picture_stay_or_their_loss_is_told(small, tmp_path):
    small.save(tmp_path / "s.png", bits=16)
    more = ["--to", "256", "--steps", "1", "--windows", "128x64", "--seed", "1"]
    own, named = run_in(["upscale", "s.png", *more], ["upscale", "s.png", *more, "-o", "x.png"], cwd=tmp_path)
    assert (own.code, named.code) == (0, 0), own.err + named.err
    assert dit360.Panorama.open(tmp_path / "s-256.png").precision == "16 bits a channel"
    assert "s.png has more than 8 bits a channel, and x.png will have 8" not in own.err
    assert "s.png has more than 8 bits a channel, and x.png will have 8." in named.err


def test_answers_are_given_again_in_their_order(tmp_path):
    draw = torch.Generator().manual_seed(0)
    answers = [torch.randn(1, 4, 3, generator=draw) for _ in range(4)]
    given = iter(answers)

    def stopped():
        with journal(tmp_path / "x", {"a": 1}, {}) as kept:
            kept.keep_latents(torch.zeros(2))
            model = Recorded(lambda x, sigma: next(given), kept)
            for _ in range(3):
                model(torch.zeros(1, 4, 3), 0.5)
            raise Stopped

    with pytest.raises(Stopped):
        stopped()
    with journal(tmp_path / "x", {"a": 1}, {}) as kept:
        model = Recorded(lambda x, sigma: next(given), kept)
        found = [model(torch.zeros(1, 4, 3), 0.5) for _ in range(4)]
        assert model.replayed == 3
    assert all(torch.equal(one, other) for one, other in zip(found, answers, strict=True))


def test_a_disk_that_is_too_small_is_told_before_it_begins(tiny, small, tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(InputError, match=r"The state of this run takes .* are free there"):
        tiny.upscale(small, state=tmp_path / "x.state", **ASKED)


# --------------------------------------------------------------------------------------------------------- bad input


def test_what_cannot_be_made_larger_is_one_sentence(tiny, small):
    bare = dit360.Panorama(small.image)
    for given, asked, said in (
        (small, {"to": 100}, r"to is 100, but must be a multiple of 32; take 160"),
        (small, {"to": 99999}, r"to is 99999, but must be at most 16384"),
        (small, {"to": 128}, "the picture is 128 wide already"),
        (small, {"to": 32768}, "at most 16384"),
        (bare, {"to": 256}, "The picture does not say what it shows; give a prompt"),
        (small, {"to": 256, "windows": "5x5"}, "windows is 5x5"),
        (small, {"to": 256, "width": 512}, "width says nothing of a larger picture, whose width is to"),
        (small, {"to": "256"}, "to is '256', but must be a whole number"),
        (small, {"to": 256.5}, "to is 256.5, but must be a whole number"),
        ("small.jpg", {"to": 256}, "image must be a panorama or a picture, not str; open a file with Panorama.open"),
    ):
        with pytest.raises(InputError, match=said):
            tiny.upscale(given, **asked)
    asked = tiny.upscale(small, **{**ASKED, "to": np.int64(256), "seed": np.int64(3)}).settings["used"]
    assert (asked["width"], asked["seed"]) == (256, 3)


def test_by_the_command_line(small, tmp_path):
    small.save(tmp_path / "s.png")
    more = ["--steps", "2", "--windows", "128x64", "--seed", "1"]
    (done, again) = run_in(
        ["upscale", "s.png", "--to", "256", *more], ["upscale", "s.png", "--to", "256", *more], cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert "Saved s-256.png (256×128 of 128×64, 9 windows, seed 1" in done.err
    assert "was made with" not in done.err
    other = {**small.settings, "used": {**small.settings["used"], "model": "dit360"}}
    dit360.Panorama(small.image, other).save(tmp_path / "o.png")
    (told,) = run_in(["upscale", "o.png", "--to", "256", "--steps", "1", "--windows", "128x64"], cwd=tmp_path)
    assert "o.png was made with dit360, and is made larger with tiny; --model dit360 would be the same." in told.err
    for name in ("o.png", "o-256.png"):
        (tmp_path / name).unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s-256.png", "s.png"]
    assert again.code == 2
    assert "exists already" in again.err


def test_the_command_line_says_whether_what_a_picture_shows_stays(small, tmp_path):
    small.save(tmp_path / "s.png")
    more = ["--steps", "1", "--windows", "128x64", "--seed", "1", "--faithful", "never"]
    done, wrong = run_in(
        ["upscale", "s.png", "--to", "256", *more],
        ["upscale", "s.png", "--to", "256", "--faithful", "no"],
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    told = dit360.Panorama.open(tmp_path / "s-256.png").settings
    assert (told["requested"]["faithful"], told["used"]["faithful"]) == ("never", False)
    assert wrong.err == "Error: --faithful is 'no', but must be one of: auto, always, never.\n"
    short = ["--steps", "1", "-o", "x.png"]
    # Another picture like it does not begin with one, and is not told of an option that nobody knows.
    (like,) = run_in(["generate", "--like", "s-256.png", "--width", "64", "--height", "32", *short], cwd=tmp_path)
    assert like.code == 0
    assert "does not know" not in like.err


def test_a_run_that_is_stopped_while_the_file_is_written_goes_on_from_the_end(small, tmp_path, monkeypatch):
    small.save(tmp_path / "s.png")
    monkeypatch.chdir(tmp_path)
    command = ["upscale", "s.png", "--to", "256", "--steps", "2", "--windows", "128x64", "--seed", "1"]

    def interrupted(*given, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(dit360.Panorama, "save", interrupted)
        CliRunner().invoke(app, command)
    assert (tmp_path / "s-256.png.state").stat().st_size
    assert not (tmp_path / "s-256.png").exists()
    CliRunner().invoke(app, command)
    assert (tmp_path / "s-256.png").exists()
    assert not (tmp_path / "s-256.png.state").exists()


def test_what_a_file_cannot_hold_is_told_before_anything_is_loaded(tmp_path):
    Image.new("RGB", (64, 32)).save(tmp_path / "s.png")
    said = run_in(
        ["upscale", "s.png", "a sea", "--to", "16384", "-o", "x.webp"],
        ["generate", "a sea", "--width", "16384", "--windows", "auto", "-o", "x.webp"],
        ["upscale", "s.png", "a sea", "--to", "128", "-o", f"{'x' * 248}.png"],
        cwd=tmp_path,
        without=("torch",),
    )
    for one in said[:2]:
        assert one.code == 2
        assert "WEBP holds at most 16383 pixels a side, but the picture is 16384 wide; save it as .png" in one.err
    assert said[2].code == 2
    assert "File name too long" in said[2].err
    # What is wrong with a mask, with how it is kept, or with the state, too.
    Image.new("L", (64, 64)).save(tmp_path / "odd.png")
    (tmp_path / "t.png.state").write_bytes(b"something else")
    more = ["upscale", "s.png", "a sea", "--to", "128"]
    odd, grown, other = run_in(
        [*more, "--mask", "odd.png"], [*more, "--mask-grow", "3"], [*more, "-o", "t.png"],
        cwd=tmp_path, without=("torch",),
    )  # fmt: skip
    assert [one.code for one in (odd, grown, other)] == [2, 2, 2]
    assert "64×64" in odd.err
    assert "--mask-grow 3.0 has no effect" in grown.err
    assert "t.png.state is no state of a run" in other.err
    assert "Traceback" not in said[2].err


def test_nothing_is_said_to_be_kept_in_a_state_that_is_refused(small, tmp_path):
    small.save(tmp_path / "s.png")
    (tmp_path / "s-256.png.state").write_bytes(b"something else")
    (said,) = run_in(["upscale", "s.png", "--to", "256", "--steps", "2", "--windows", "128x64"], cwd=tmp_path)
    assert said.code == 2
    assert re.fullmatch(r"Error: s-256\.png\.state is no state of a run [^\n]+\n", said.err), said.err


def test_a_transparent_pixel_is_no_mask(tiny, small, large, caplog, tmp_path):
    seen = small.image.convert("RGBA")
    seen.putpixel((3, 3), (*seen.getpixel((3, 3))[:3], 0))
    seen.save(tmp_path / "seen.png")
    made = tiny.upscale(dit360.Panorama.open_whole(tmp_path / "seen.png"), small.settings["prompt"], **ASKED)
    assert np.abs(pixels(made).astype(float) - pixels(large)).mean() < 3
    assert "Transparency is ignored when a picture is made larger" in caplog.text
