"""The autoencoders of FLUX.2 and Qwen-Image, and one that tells its own steps: circular, in one piece and in tiles."""

import copy
import threading

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers import AutoencoderKLFlux2, AutoencoderKLQwenImage
from dit360_core.errors import ModelError
from dit360_core.models.shapes.tracing import trace
from dit360_core.models.weights.quiet import quiet
from dit360_core.plugins.builtin.tiling_exact import Exact
from dit360_core.plugins.builtin.tiling_others import Blended, Whole
from dit360_core.plugins.offers import TilingSettings
from dit360_core.sphere.vae import (
    LEVELS,
    CannotTakeApart,
    Convolution,
    OneFrame,
    PixelNorm,
    Residual,
    TellsSteps,
    circular_twin,
    decode_exact,
    decode_whole,
    decoder_steps,
    encode_exact,
    encode_whole,
    encoder_steps,
    flatten,
    is_flat,
    is_run_by_steps,
    is_stored,
    latent_channels,
    make_schedule,
    one_frame,
    one_frame_class,
    pixels_per_latent,
    predict_whole,
    stored,
    stored_shape,
)
from dit360_core.sphere.vae.bands import Moments, Normalize
from dit360_core.sphere.vae.whole import run_whole

FOUR = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


def noise(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def flux2(**config):
    torch.manual_seed(0)
    small = {"block_out_channels": (8, 16, 16, 16), "layers_per_block": 1, "norm_num_groups": 4, **FOUR, **config}
    return AutoencoderKLFlux2(**small).eval().requires_grad_(False)


def qwen(**config):
    torch.manual_seed(0)
    made = AutoencoderKLQwenImage(**{"base_dim": 8, "num_res_blocks": 1, **config}).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith("gamma"):
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def flattened(vae, dtype=torch.float32):
    """As the core reads it: empty on the meta device, filled with a third of what is in the file."""
    with quiet(), torch.device("meta"):
        made = one_frame_class(AutoencoderKLQwenImage).from_config(vae.config)
    file = {name: tensor for name, tensor in vae.state_dict().items() if is_stored(name)}
    assert {name: stored_shape(tensor.shape) for name, tensor in file.items()} == {
        name: tuple(tensor.shape) for name, tensor in made.state_dict().items()
    }
    made.load_state_dict({name: stored(tensor) for name, tensor in file.items()}, assign=True)
    with quiet():
        return made.to(dtype).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def made():
    full = qwen()
    return {
        "flux2": flux2(),
        "flux2 small decoder": flux2(decoder_block_out_channels=(4, 8, 8, 16)),
        "qwen": full,
        "qwen one frame": one_frame(copy.deepcopy(full)),
        "qwen flat": flattened(full),
    }


KINDS = ["flux2", "flux2 small decoder", "qwen", "qwen one frame", "qwen flat"]


def off(made, expected):
    return float((made.double() - expected.double()).abs().max() / expected.double().std())


def plain(vae, latents):
    """diffusers' own decode."""
    with torch.no_grad():
        film = isinstance(vae, AutoencoderKLQwenImage) and not isinstance(vae, OneFrame)
        made = vae.decode(latents.unsqueeze(2) if film else latents, return_dict=False)[0]
    return made.squeeze(2) if film else made


def in_tiles(vae, latents, level, tile=24):
    schedule = make_schedule(
        decoder_steps(vae), *latents.shape[2:], latents.element_size(), level, tile_size=tile, at_least_two=True
    )
    return decode_exact(vae, latents, schedule)


def encoded_in_tiles(vae, pixels, level, tile=24):
    schedule = make_schedule(
        encoder_steps(vae), *pixels.shape[2:], pixels.element_size(), level, tile_size=tile, at_least_two=True
    )
    return encode_exact(vae, pixels, schedule)


# --------------------------------------------------------------------------------------------------- circular, tiled


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("flux2", "recomputed"),
        ("flux2 small decoder", "mixed"),
        ("qwen", "stored"),
        ("qwen one frame", "stored"),
        ("qwen flat", "offloaded"),
    ],
)
def test_rolling_rolls_and_tiles_change_nothing(made, kind, level):
    """Each level of the first kind's blocks is tried with AutoencoderKL, too; of the others all are alike."""
    vae = made[kind]
    latents, pixels = noise(1, latent_channels(vae), 5, 9), noise(1, 3, 40, 72)
    whole, inner = decode_whole(vae, latents), encode_whole(vae, pixels)
    assert whole.shape == (1, 3, 40, 72)
    assert inner.shape == latents.shape
    assert (decode_whole(vae, latents.roll(4, -1)) - whole.roll(32, -1)).abs().max() <= 1e-5
    assert (encode_whole(vae, pixels.roll(24, -1)) - inner.roll(3, -1)).abs().max() <= 1e-5
    assert off(plain(vae, latents), whole) > 0.1
    for result, expected in ((in_tiles(vae, latents, level), whole), (encoded_in_tiles(vae, pixels, level), inner)):
        assert off(result[0], expected) <= 5e-5
        assert result[1] > 1


@pytest.mark.parametrize("kind", ["qwen", "qwen flat"])
@pytest.mark.parametrize(("size", "tile"), [((1, 9), 12), ((3, 1), 24), ((5, 7), 4096)])
def test_any_size_and_tile_and_two_at_once(made, kind, size, tile):
    vae = made[kind]
    latents, pixels = noise(2, 16, *size), noise(2, 3, 8 * size[0], 8 * size[1])
    assert off(in_tiles(vae, latents, "stored", tile)[0], decode_whole(vae, latents)) <= 5e-5
    assert off(encoded_in_tiles(vae, pixels, "stored", tile)[0], encode_whole(vae, pixels)) <= 5e-5


def _affine(x, weight, bias):
    return x * weight.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)


@pytest.mark.parametrize("kind", ["flux2", "qwen"])
def test_the_inside_of_a_wide_decode_by_diffusers_is_ours(made, kind, monkeypatch):
    """The middle of three copies side by side, without what sees the outer edges: attention, and moments of groups.

    Groups of FLUX.2's are given fixed moments. diffusers rounds to float32 where Qwen-Image's enlarges.
    """
    vae = copy.deepcopy(made[kind]).double()
    vae.decoder.mid_block.attentions[0] = None
    latents = noise(1, latent_channels(vae), 3, 24, dtype=torch.float64)
    monkeypatch.setattr(
        torch.nn.functional, "group_norm", lambda x, groups, weight, bias, eps: _affine(x, weight, bias)
    )
    monkeypatch.setattr(Normalize, "__call__", lambda self, band: _affine(band, self._weight, self._bias))
    wide = plain(vae, torch.cat([latents] * 3, dim=3))[..., 192:384]
    for ours in (decode_whole(vae, latents), in_tiles(vae, latents, "recomputed")[0]):
        assert off(ours, wide) <= (1e-11 if kind == "flux2" else 5e-6)


def test_qwen_in_one_piece_is_what_its_own_code_makes_when_it_wraps(made):
    """By its steps, and by a twin of diffusers' modules; diffusers rounds to float32 where it enlarges."""
    vae = copy.deepcopy(made["qwen"]).double()
    latents, pixels = noise(1, 16, 4, 6, dtype=torch.float64), noise(1, 3, 32, 48, dtype=torch.float64)
    twin = circular_twin(vae)
    with torch.no_grad():
        assert (twin.decode(latents).sample - decode_whole(vae, latents)).abs().max() <= 1e-6
        assert (twin.encode(pixels).latent_dist.mode() - encode_whole(vae, pixels)).abs().max() <= 1e-12
    assert not isinstance(vae, OneFrame)


def test_what_qwen_decodes_is_cut_off(made):
    vae = copy.deepcopy(made["qwen"])
    vae.decoder.conv_out.weight.mul_(50)
    latents = noise(1, 16, 4, 6)
    for pixels in (decode_whole(vae, latents), in_tiles(vae, latents, "stored")[0]):
        assert pixels.min() == -1.0
        assert pixels.max() == 1.0
    # What is cut off has little deviation left beside that of which it was a part.
    assert off(in_tiles(vae, latents, "stored")[0], decode_whole(vae, latents)) <= 50 * 5e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_worse_than_diffusers(made, dtype):
    exact, half = made["qwen"], copy.deepcopy(made["qwen flat"]).to(dtype)
    latents = noise(1, 16, 4, 7).to(dtype)
    theirs = copy.deepcopy(exact).to(dtype)
    with torch.no_grad():
        yardstick = off(circular_twin(theirs).decode(latents).sample, decode_whole(exact, latents.float()))
    for pixels in (decode_whole(half, latents), in_tiles(half, latents, "stored")[0]):
        assert pixels.dtype == dtype
        assert off(pixels, decode_whole(exact, latents.float())) <= 1.5 * yardstick


# --------------------------------------------------------------------------------------------------------- one frame


@pytest.mark.parametrize("kind", ["qwen one frame", "qwen flat"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_one_frame_is_diffusers_own(made, kind, dtype, bound):
    full, vae = copy.deepcopy(made["qwen"]).to(dtype), copy.deepcopy(made[kind]).to(dtype)
    latents, pixels = noise(2, 16, 4, 6, dtype=dtype), noise(2, 3, 32, 48, dtype=dtype)
    with torch.no_grad():
        expected = full.decode(latents.unsqueeze(2)).sample
        inner = full.encode(pixels.unsqueeze(2)).latent_dist.mode()
        assert (vae.decode(latents).sample - expected[:, :, 0]).abs().max() <= bound
        assert (vae.decode(latents.unsqueeze(2), return_dict=False)[0] - expected).abs().max() <= bound
        assert (vae.encode(pixels, return_dict=False)[0].mode() - inner[:, :, 0]).abs().max() <= bound
        assert (vae.encode(pixels.unsqueeze(2)).latent_dist.mode() - inner).abs().max() <= bound


def test_a_flattened_one_has_a_third_of_the_weights_and_diffusers_code_runs_it(made):
    full, flat = made["qwen"], made["qwen flat"]
    assert is_flat(flat)
    assert not is_flat(full)
    counts = [sum(p.numel() for p in vae.parameters()) for vae in (flat, full)]
    assert counts[0] < 0.37 * counts[1]
    own, latents = copy.copy(flat), noise(1, 16, 1, 4, 6)
    own.__class__ = AutoencoderKLQwenImage
    with torch.no_grad():
        assert (own.decode(latents).sample - full.decode(latents).sample).abs().max() <= 1e-5
        pixels = noise(1, 3, 1, 32, 48)
        ours, theirs = (vae.encode(pixels).latent_dist.mode() for vae in (own, full))
    assert (ours - theirs).abs().max() <= 1e-5
    again = one_frame(copy.deepcopy(full))
    flatten(again)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in flat.state_dict().items()}


def test_several_frames_are_diffusers_own_or_refused(made):
    full, latents = made["qwen"], noise(1, 16, 2, 3, 4)
    with torch.no_grad():
        expected = full.decode(latents).sample
        assert (made["qwen one frame"].decode(latents).sample - expected).abs().max() <= 1e-5
        with pytest.raises(ModelError, match="read for single pictures"):
            made["qwen flat"].decode(latents)


def test_a_loaded_one_keeps_its_weights_and_its_name(made):
    full = copy.deepcopy(made["qwen"])
    before = {name: (value.data_ptr(), value.clone()) for name, value in full.state_dict().items()}
    vae = one_frame(full)
    assert vae is full
    assert isinstance(vae, OneFrame)
    assert isinstance(vae, AutoencoderKLQwenImage)
    assert (type(vae).__name__, type(vae).__module__) == (
        AutoencoderKLQwenImage.__name__,
        AutoencoderKLQwenImage.__module__,
    )
    assert one_frame(vae) is vae
    for name, value in vae.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])
    other = flux2()
    assert type(one_frame(other)) is AutoencoderKLFlux2


def test_threads_share_one(made):
    vae, latents = made["qwen one frame"], [noise(1, 16, 3, 4 + i) for i in range(3)]
    expected = [plain(vae, each) for each in latents]
    found = [None] * len(latents)

    def work(i):
        for _ in range(3):
            found[i] = plain(vae, latents[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(latents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, right in zip(found, expected, strict=True):
        assert torch.allclose(mine, right, atol=1e-6)


def test_the_twin_shares_the_weights_and_leaves_the_original_alone(made):
    vae, latents = made["qwen"], noise(1, 16, 3, 4)
    before, kinds = plain(vae, latents), [type(module) for module in vae.modules()]
    twin = circular_twin(vae)
    with torch.no_grad():
        twin.decode(latents)
    assert torch.equal(plain(vae, latents), before)
    assert [type(module) for module in vae.modules()] == kinds
    assert all(a is b for a, b in zip(vae.parameters(), twin.parameters(), strict=True))


def test_sizes_are_known_for_each(made):
    assert [latent_channels(made[kind]) for kind in KINDS] == [32, 32, 16, 16, 16]
    assert {pixels_per_latent(vae) for vae in made.values()} == {8}
    with pytest.raises(ModelError, match="does not say how many channels"):
        latent_channels(torch.nn.Identity())


# ----------------------------------------------------------------------------------------------------------- tilings


@pytest.mark.parametrize("kind", ["flux2", "qwen flat"])
def test_each_tiling_takes_each(made, kind):
    vae = made[kind]
    latents, pixels = noise(1, latent_channels(vae), 6, 12), noise(1, 3, 48, 96)
    expected, inner = decode_whole(vae, latents), encode_whole(vae, pixels)
    settings = TilingSettings(mode="always", tile_size=64, tile_overlap=16)
    assert not list(Exact(settings).refuses(vae))
    assert not list(Blended(settings).refuses(vae))
    for tiling, bound in ((Exact(settings), 1e-4), (Whole(TilingSettings()), 1e-5), (Blended(settings), 1.0)):
        assert (tiling.decode(vae, latents) - expected).abs().mean() <= bound * expected.std()
        assert (tiling.encode(vae, pixels) - inner).abs().mean() <= bound * inner.std()
        assert tiling.report["tiles"] >= (1 if isinstance(tiling, Whole) else 2)
    for tiling in (Exact(settings), Whole(TilingSettings())):
        decoding = tiling.predicts(vae, tuple(latents.shape), "cpu", None)
        encoding = tiling.predicts_encoding(vae, tuple(pixels.shape), "cpu", None)
        assert decoding["bytes"] > 0 < encoding["bytes"]
        assert decoding["operations"] > encoding["operations"] > 0


def test_offloading_hooks_bring_the_weights(made):
    vae, latents = copy.deepcopy(made["qwen flat"]), noise(1, 16, 4, 6)
    expected, called = decode_whole(vae, latents), []

    class Hook(AlignDevicesHook):
        def pre_forward(self, module, *args, **kwargs):
            called.append(module)
            return super().pre_forward(module, *args, **kwargs)

    add_hook_to_module(vae, Hook(execution_device="cpu", offload=True, place_submodules=True))
    assert next(vae.parameters()).is_meta
    for decode in (decode_whole, lambda vae, latents: in_tiles(vae, latents, "stored")[0]):
        assert off(decode(vae, latents), expected) <= 5e-5
    assert called == [vae, vae]
    assert next(vae.parameters()).is_meta


# -------------------------------------------------------------------------------------------------- what is refused


def other_kernel(vae):
    vae.decoder.conv_out = type(vae.decoder.conv_out)(8, 3, 5, padding=2)


def padded_otherwise(vae):
    vae.decoder.conv_in.padding_mode = "replicate"


def not_causal(vae):
    vae.decoder.conv_in._padding = (1, 1, 1, 1, 1, 1)


def normalized_otherwise(vae):
    vae.decoder.norm_out = torch.nn.LayerNorm(8)


def activated_otherwise(vae):
    vae.decoder.nonlinearity = torch.nn.Softmax(dim=1)


def hooked(vae):
    vae.decoder.conv_out.register_forward_hook(lambda *_: None)


def another_block(vae):
    vae.decoder.up_blocks[0] = torch.nn.Identity()


def another_layer(vae):
    vae.decoder.up_blocks[0].resnets[0] = torch.nn.Identity()


def another_resize(vae):
    vae.decoder.up_blocks[0].upsamplers[0].resample[1] = torch.nn.Conv2d(32, 16, 5, padding=2)


def another_attention(vae):
    vae.decoder.mid_block.attentions[0].proj = torch.nn.Conv2d(32, 32, 3, padding=1)


def add_parameter(vae):
    vae.decoder.mid_block.gate = torch.nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_kernel, "not a plain causal 3×3×3 or 1×1×1"),
        (padded_otherwise, "not a plain causal"),
        (not_causal, "not a plain causal"),
        (normalized_otherwise, "normalizes by LayerNorm"),
        (activated_otherwise, "activation is a Softmax"),
        (hooked, "has hooks, which would not run"),
        (another_block, "Identity where a QwenImageUpBlock"),
        (another_layer, "Identity where one of QwenImageResidualBlock"),
        (another_resize, "no plain resize"),
        (another_attention, "attention is not the plain one"),
        (add_parameter, "parameter mid_block.gate has no known use"),
    ],
)
def test_what_is_not_understood_is_refused(made, change, why):
    vae = copy.deepcopy(made["qwen"])
    change(vae)
    with pytest.raises(CannotTakeApart, match=why):
        decoder_steps(vae)
    assert why in " ".join(reason.sentence for reason in Exact(TilingSettings()).refuses(vae))


def test_one_that_cannot_be_taken_apart_is_still_decoded_whole_with_its_hooks(made):
    vae, latents, called = copy.deepcopy(made["qwen"]), noise(1, 16, 3, 5), []
    vae.decoder.conv_out.register_forward_hook(lambda *_: called.append(1))
    assert off(decode_whole(vae, latents), decode_whole(made["qwen"], latents)) <= 5e-5
    assert called


# ------------------------------------------------------------------------------------------- one that tells its steps


class Own(torch.nn.Module):
    """A plugin's autoencoder, factor 2, whose latents are no distribution."""

    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = torch.nn.Conv2d(6, 8, 3), torch.nn.Conv2d(8, 3, 3)
        self.one, self.two = torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 8, 3)
        self.shrink = torch.nn.Conv2d(3, 6, 3, stride=2)
        self.norm = norm
        self.requires_grad_(False)

    def decoder_steps(self):
        norm, act, beside = self.norm, torch.nn.SiLU(), (1, 1, 1, 1)
        if isinstance(norm, torch.nn.LayerNorm):
            norm = PixelNorm(module=self.norm, apply=self._over_channels)
        convolutions = [Convolution(conv=conv, norm=norm, act=act, margins=beside) for conv in (self.one, self.two)]
        return (
            Convolution(conv=self.enter, margins=beside),
            Residual(first=convolutions[0], second=convolutions[1]),
            Convolution(conv=self.leave, margins=beside, upsample=True),
        )

    def encoder_steps(self):
        return (Convolution(conv=self.shrink, margins=(0, 1, 0, 1)),)

    def _over_channels(self, band):
        layer = self.norm
        over = torch.nn.functional.layer_norm(band.movedim(1, -1), (8,), layer.weight, layer.bias, layer.eps)
        return over.movedim(-1, 1)


@pytest.mark.parametrize("norm", [torch.nn.LayerNorm(8), torch.nn.GroupNorm(2, 8)], ids=["pixels", "groups"])
def test_a_plugins_own_autoencoder_needs_nothing_but_its_steps(norm):
    vae, latents, pixels = Own(norm), noise(1, 6, 7, 12), noise(1, 3, 14, 24)
    assert isinstance(vae, TellsSteps)
    assert (latent_channels(vae), pixels_per_latent(vae)) == (6, 2)
    expected, inner = decode_whole(vae, latents), encode_whole(vae, pixels)

    def padded(x, conv, **how):
        return conv(torch.nn.functional.pad(torch.cat([x[..., -1:], x, x[..., :1]], -1), (0, 0, 1, 1)), **how)

    def normalized(x):
        return torch.nn.functional.silu(vae._over_channels(x) if isinstance(norm, torch.nn.LayerNorm) else norm(x))

    x = padded(latents, vae.enter)
    x = x + padded(normalized(padded(normalized(x), vae.one)), vae.two)
    by_hand = padded(torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest"), vae.leave)
    assert off(expected, by_hand) <= 1e-5
    assert inner.shape == latents.shape
    for level in LEVELS:
        assert off(in_tiles(vae, latents, level)[0], expected) <= 5e-5
        assert off(encoded_in_tiles(vae, pixels, level)[0], inner) <= 5e-5


@pytest.mark.parametrize(
    ("steps", "why"),
    [((), "does not end with a Convolution"), ((torch.nn.Conv2d(1, 1, 1),), "tells a Conv2d, which is no step")],
)
def test_steps_that_are_none_are_refused(steps, why):
    vae = Own(torch.nn.GroupNorm(2, 8))
    vae.decoder_steps = lambda: steps
    with pytest.raises(CannotTakeApart, match=why):
        decoder_steps(vae)


# --------------------------------------------------------------------------------------------------- predicted memory


KERNEL = torch.nn.functional.conv2d


def _as_kernels_do(x, weight, *rest, **more):
    """A convolution with what its kernel takes for itself: the weights in its own order, and the input and the result,
    too, if channels come first (``ONEDNN_VERBOSE=1`` tells)."""
    ordered = torch.empty_like(weight)
    last = x.is_contiguous(memory_format=torch.channels_last)
    source = None if last else torch.empty_like(x)
    out = KERNEL(x, weight, *rest, **more)
    del source, ordered
    return out if last else torch.empty_like(out)


@pytest.fixture
def without_data(monkeypatch):
    """Where tensors have no numbers: kernels that are none there take what they take elsewhere."""
    functional = torch.nn.functional
    monkeypatch.setattr(functional, "conv2d", _as_kernels_do)
    # One kernel on a CPU and on CUDA; without data it would be made of others, which keep scores.
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query))
    # Quotient and norms; made of Python's parts without data, which garbage would outlive.
    monkeypatch.setattr(functional, "normalize", lambda x, **_: torch.empty_like(x))
    no_moments = torch.zeros(2, 0, device="meta")
    monkeypatch.setattr(
        Moments, "of_groups", lambda self, _: no_moments.new_zeros(2, self._found[0].shape[-1]).unbind()
    )


@pytest.fixture(scope="module")
def shapes():
    """The real ones' shapes, without data."""
    with quiet(), torch.device("meta"):
        flux = AutoencoderKLFlux2(**FOUR)
        film = one_frame_class(AutoencoderKLQwenImage)()
    return {"flux2": flux.eval().requires_grad_(False), "qwen": film.eval().requires_grad_(False)}


def taken(vae, run):
    """Bytes alive at once."""
    return trace(run, module=vae).peak


@pytest.mark.parametrize("encoding", [False, True], ids=["decoding", "encoding"])
@pytest.mark.parametrize(("kind", "size"), [("flux2", (256, 512)), ("flux2", (1024, 2048)), ("qwen", (256, 512))])
def test_what_one_piece_is_predicted_to_take_is_what_its_code_holds(shapes, without_data, kind, encoding, size):
    """Of the autoencoders as they are published, in float32; within a twentieth, more or less."""
    vae, (rows, columns) = shapes[kind], size
    steps = encoder_steps(vae) if encoding else decoder_steps(vae)
    shape = (1, 3, rows, columns) if encoding else (1, latent_channels(vae), rows // 8, columns // 8)
    sample, by_steps = torch.empty(shape, device="meta"), is_run_by_steps(vae)
    assert by_steps == (kind == "qwen")
    run = encode_whole if encoding else decode_whole
    found = taken(vae, lambda: run_whole(vae, steps, sample) if by_steps else run(vae, sample))
    assert 0.95 * found <= predict_whole(steps, *shape[2:], 4, by_steps=by_steps) <= 1.05 * found


@pytest.mark.parametrize(
    ("kind", "level", "encoding"), [("flux2", "recomputed", False), ("qwen", "stored", False), ("qwen", "stored", True)]
)
def test_what_tiles_are_predicted_to_take_is_what_their_code_holds(shapes, without_data, kind, level, encoding):
    """As above, within a tenth; what an allocator loses comes on top, and is measured (docs/tiling.md)."""
    vae = shapes[kind]
    rows = 128 if kind == "flux2" else 256
    shape = (1, 3, rows, 2 * rows) if encoding else (1, latent_channels(vae), rows // 8, rows // 4)
    steps = encoder_steps(vae) if encoding else decoder_steps(vae)
    schedule, sample = make_schedule(steps, *shape[2:], 4, level, tile_size=4096), torch.empty(shape, device="meta")
    run = encode_exact if encoding else decode_exact
    found = taken(vae, lambda: run(vae, sample, schedule))
    assert 0.9 * found <= schedule.alive_bytes <= 1.1 * found
    assert schedule.alive_bytes <= schedule.peak_bytes <= 2 * schedule.alive_bytes
