"""The nodes in a real ComfyUI, headless and on the CPU, over HTTP."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import dit360_comfy
import numpy as np
import psutil
import pytest
from comfy_server import PYTHON, Server, comfyui_dir, errors
from command_line import install
from dit360_comfy.replacements import REPLACEMENTS
from dit360_core.panorama.photos import Photo
from dit360_core.panorama.picture import Panorama
from PIL import Image

from bench.scaled import make_model

pytestmark = pytest.mark.comfyui

PACK = Path(dit360_comfy.__file__).parent / "node_pack"
PLUGINS = ("good", "raises_on_import", "needs_missing_library", "wrong_numbers")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    (base / "custom_nodes").mkdir()
    os.symlink(PACK, base / "custom_nodes" / "dit360-comfy")
    helpers = base / "custom_nodes" / "helpers"
    helpers.mkdir()
    shutil.copy(Path(__file__).with_name("helper_nodes.py"), helpers / "__init__.py")
    site = install(tmp_path_factory.mktemp("site"), *PLUGINS)
    # An older ComfyUI may have its own packages there.
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    with Server(base, "--preview-method", "auto", environment={"PYTHONPATH": path}) as running:
        yield running


def graph(*, loader=None, sampler=None, **more):
    """Prompt to saved panorama with the embedded model, 256×128 in three steps if nothing else is said."""
    made = {
        "load": {
            "class_type": "DiT360Loader",
            "inputs": {
                "model_path": "tiny", "precision": "auto", "vae_path": "the model's", "t5_path": "the model's",
                "offload_to_cpu": True, **(loader or {}),
            },
        },
        "read": {
            "class_type": "DiT360TextEncode",
            "inputs": {
                "dit360_pipe": ["load", 0], "prompt": "a castle above a meadow at sunset", "negative_prompt": "",
                "max_length": 0,
            },
        },
        "sample": {
            "class_type": "DiT360Sampler",
            "inputs": {
                "dit360_pipe": ["load", 0], "conditioning": ["read", 0], "width": 256, "height": 128, "steps": 3,
                "cfg_scale": -1, "seed": 7, "circular_padding": -1, **(sampler or {}),
            },
        },
        "decode": {
            "class_type": "DiT360Decode",
            "inputs": {"samples": ["sample", 0], "dit360_pipe": ["load", 0], "auto_blend_edges": False},
        },
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "pano"}},
    }  # fmt: skip
    return {**made, **more}


def saved(server, entry) -> Image.Image:
    assert entry["status"]["status_str"] == "success", errors(entry)
    (told,) = entry["outputs"]["save"]["images"]
    return Panorama.open(server.base / "output" / told["subfolder"] / told["filename"])


def sentence(entry) -> str:
    (told,) = errors(entry)
    return told["exception_message"].strip()


def cached(entry) -> set[str]:
    return {name for kind, told in entry["status"]["messages"] if kind == "execution_cached" for name in told["nodes"]}


def test_all_nodes_are_there_and_drop_downs_hold_plugins_and_why_not(server):
    nodes = server.get("/object_info").body
    assert not [line for line in server.log().splitlines() if "(IMPORT FAILED)" in line]
    attention, about = nodes["DiT360Loader"]["input"]["optional"]["attention_backend"]
    assert {"auto", "sdpa", "eager", "mine", "needy"} <= set(attention)
    assert "surely-not-installed is not installed" in about["tooltip"]


def test_a_graph_makes_the_panorama_that_the_library_makes(server, tiny):
    panorama = saved(server, server.run(graph()))
    expected = tiny.generate("a castle above a meadow at sunset", width=256, height=128, steps=3, seed=7)
    difference = np.abs(np.asarray(panorama.image, dtype=int) - np.asarray(expected.image, dtype=int))
    # ComfyUI rounds down where the library rounds.
    assert difference.max() <= 1


def test_another_seed_reads_nothing_again_and_the_same_one_is_not_made_again(server):
    first = graph(loader={"vae_tile_size": 1024})
    server.run(first)
    log = server.log()
    other = server.run(graph(loader={"vae_tile_size": 1024}, sampler={"seed": 8}))
    assert cached(other) == {"load", "read"}
    again = server.run(graph(loader={"vae_tile_size": 1024}, sampler={"seed": 8}))
    assert cached(again) == {"load", "read", "sample", "decode", "save"}
    assert "model: tiny" not in server.log()[len(log) :]


@pytest.fixture(scope="module")
def pressed(tmp_path_factory):
    """A server whose cache finds memory short at all times; None where ComfyUI knows no such cache."""
    base = tmp_path_factory.mktemp("pressed")
    (base / "custom_nodes").mkdir()
    os.symlink(PACK, base / "custom_nodes" / "dit360-comfy")
    if "--cache-ram" not in (comfyui_dir() / "comfy" / "cli_args.py").read_text("utf-8"):
        pytest.skip("this ComfyUI has no cache that drops results where memory is short")
    with Server(base, "--cache-ram", "100000") as running:
        yield running


def test_where_memory_is_short_a_second_run_reads_and_encodes_nothing_again(pressed):
    saved(pressed, pressed.run(graph()))
    log = pressed.log()
    again = pressed.run(graph(sampler={"seed": 8}))
    saved(pressed, again)
    assert {"load", "read"} <= cached(again)
    assert "model: tiny" not in pressed.log()[len(log) :]
    # Another setting of the decoder: the panorama before it is there still.
    after = graph(sampler={"seed": 8})
    after["decode"]["inputs"]["auto_blend_edges"] = True
    again = pressed.run(after)
    saved(pressed, again)
    assert {"load", "read", "sample"} <= cached(again)


def test_the_sampler_s_node_shows_what_was_used_where_the_model_chose(server):
    entry = server.run(graph(sampler={"width": 0, "height": 0, "steps": 0, "seed": 11}))
    (told,) = entry["outputs"]["sample"]["text"]
    assert told.startswith("width 512, height 256, steps 28, cfg_scale 3, circular_padding 1, seed 11\n")


def test_nodes_of_other_packs_that_have_a_counterpart_become_it(server):
    known = server.get("/node_replacements")
    if known.status != 200:
        pytest.skip("this ComfyUI replaces no nodes")
    nodes = server.get("/object_info").body
    for one in REPLACEMENTS:
        (told,) = known.body[one.old]
        assert told["new_node_id"] == one.new
        inputs = {**nodes[one.new]["input"]["required"], **nodes[one.new]["input"].get("optional", {})}
        assert {given["new_id"] for given in told["input_mapping"]} <= set(inputs)
        assert set(nodes[one.new]["input"]["required"]) == {given["new_id"] for given in told["input_mapping"]}
    theirs = graph(
        blend={"class_type": "Equirect360EdgeBlender", "_meta": {"title": "Blend"}, "inputs": {
            "image": ["decode", 0], "blend_width": 12, "blend_mode": "smooth"}},
        view={"class_type": "Equirect360Viewer", "_meta": {"title": "View"}, "inputs": {
            "images": ["blend", 0], "max_resolution": 4096}},
        unload={"class_type": "DiT360PipelineUnloader", "_meta": {"title": "Unload"}, "inputs": {
            "pipeline": ["load", 0]}},
    )  # fmt: skip
    entry = server.run({name: {"_meta": {"title": name}, **node} for name, node in theirs.items()})
    assert not errors(entry), errors(entry)
    assert entry["outputs"]["view"]["dit360_panoramas"]
    assert "Dropped" in entry["outputs"]["unload"]["text"][0]


def test_the_panorama_and_its_previews_have_no_seam(server, tmp_path):
    listener = subprocess.Popen(
        [PYTHON, str(Path(__file__).parent.parent / "comfy_previews.py"),
         f"ws://127.0.0.1:{server.port}/ws?clientId={server.client}", str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert listener.stdout.readline() == "listening\n"
    panorama = saved(server, server.run(graph(sampler={"width": 0, "height": 0, "steps": 0})))
    listener.communicate("\n", timeout=600)
    assert panorama.size == (512, 256)
    assert panorama.seam.ratio < 1.25
    assert abs(panorama.seam.z_score) < 2
    previews = sorted(tmp_path.glob("*.jpg"))
    assert len(previews) == 28
    with Image.open(previews[-1]) as last:
        shown = Panorama(last.convert("RGB"))
    small = np.asarray(panorama.image.resize(shown.size), dtype=float)
    assert np.corrcoef(np.asarray(shown.image, dtype=float).ravel(), small.ravel())[0, 1] > 0.8
    assert abs(shown.seam.z_score) < 2


@pytest.fixture(scope="module")
def scaled(tmp_path_factory) -> Path:
    """A model of FLUX's structure, 200 MB of random weights."""
    return make_model(tmp_path_factory.mktemp("scaled") / "narrow", "narrow")


def test_latents_and_conditioning_pass_through_comfyuis_own_nodes(server, scaled, tmp_path):
    def numbers(name, images):
        return {"class_type": "SaveNumbers", "inputs": {"images": images, "path": str(tmp_path / f"{name}.npy")}}

    sampled = graph(
        loader={"custom_model": str(scaled), "precision": "fp32"},
        sampler={"conditioning": ["combine", 0]},
        other={"class_type": "DiT360TextEncode", "inputs": {
            "dit360_pipe": ["load", 0], "prompt": "a dark cave", "negative_prompt": "", "max_length": 0}},
        combine={"class_type": "ConditioningCombine", "inputs": {
            "conditioning_1": ["read", 0], "conditioning_2": ["other", 0]}},
        vae={"class_type": "SmallVAE", "inputs": {"folder": str(scaled)}},
        stock={"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["vae", 0]}},
        seamless={"class_type": "DiT360VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["vae", 0]}},
        a=numbers("ours", ["decode", 0]), b=numbers("stock", ["stock", 0]), c=numbers("seamless", ["seamless", 0]),
    )  # fmt: skip
    saved(server, server.run(sampled))
    ours, stock, seamless = (np.load(tmp_path / f"{name}.npy") for name in ("ours", "stock", "seamless"))
    assert ours.shape == stock.shape == (1, 128, 256, 3)
    assert np.abs(ours - seamless).max() < 1e-4
    # Their decoder does not wrap, which changes the edges and, through its attention and norms, a little of the rest.
    assert np.abs(ours - stock)[:, :, 96:-96].mean() < 0.02


def test_it_stops_within_a_step_and_goes_on_serving(server):
    large = graph(sampler={"width": 2048, "height": 1024, "steps": 4, "seed": 3})
    began = server.queue(large).body["prompt_id"]
    until = time.monotonic() + 600
    while "4 steps, 4 evaluations" not in server.log()[-600:] and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)

    def worked():
        """Seconds of processors, since on a busy machine those of a clock tell nothing."""
        times = psutil.Process(server.pid).cpu_times()
        return times.user + times.system

    asked = worked()
    server.post("/interrupt")
    entry = server.wait(began)
    took = worked() - asked
    assert not errors(entry), sentence(entry)
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]
    assert took < 4, f"it took {took:.1f} s of processors, and a step takes longer than that"
    saved(server, server.run(graph(sampler={"seed": 21})))


def loaded(server, name, image):
    """A node that loads a picture, which is put into the server's folder."""
    image.save(server.base / "input" / f"{name}.png")
    return {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}}


def pasting(mask, original=("photo", 0)):
    """Nodes that paste back, and a graph's end that saves that."""
    return {
        "paste": {
            "class_type": "DiT360PasteBack",
            "inputs": {
                "image": ["decode", 0], "original": list(original), "mask": mask, "match_colours": True,
                "feather": -1.0,
            },
        },
        "save": {"class_type": "SaveImage", "inputs": {"images": ["paste", 0], "filename_prefix": "pano"}},
    }  # fmt: skip


def inpainting(image, mask, **more):
    return {
        "class_type": "DiT360Inpaint",
        "inputs": {
            "dit360_pipe": ["load", 0], "conditioning": ["read", 0], "image": image, "mask": mask, "steps": 3,
            "cfg_scale": -1, "denoise": 1.0, "blur_radius": 10, "blend_mode": "cosine", "seed": 7, **more,
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def picture(tiny):
    """A panorama, 256×128."""
    return tiny.generate("a calm sea at noon", width=256, height=128, steps=3, seed=2).image


@pytest.mark.parametrize("how", ["set latent noise mask", "vae encode for inpainting", "inpaint"])
def test_what_comfyui_masks_is_made_anew_and_the_rest_stays_to_the_last_pixel(server, scaled, picture, how):
    holed = picture.convert("RGBA")
    hole = Image.new("L", (64, 64), 0)  # transparent
    for left in (-32, 224):  # over the meridian
        holed.paste(Image.new("RGBA", hole.size), (left, 32))
    more = {"photo": loaded(server, "holed", holed)}
    mask = ["photo", 1]
    if how == "set latent noise mask":
        encode = {"class_type": "DiT360Encode", "inputs": {"image": ["photo", 0], "dit360_pipe": ["load", 0]}}
        masked = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["encode", 0], "mask": mask}}
        more |= {"encode": encode, "masked": masked}
    elif how == "vae encode for inpainting":
        # ComfyUI's own autoencoder, which knows no model as small as the embedded one.
        vae = {"class_type": "SmallVAE", "inputs": {"folder": str(scaled)}}
        inputs = {"pixels": ["photo", 0], "vae": ["vae", 0], "mask": mask, "grow_mask_by": 6}
        more |= {"vae": vae, "masked": {"class_type": "VAEEncodeForInpaint", "inputs": inputs}}
    sampler = {"width": 0, "height": 0, "latent_image": ["masked", 0]}
    loader = {"custom_model": str(scaled), "precision": "fp32"} if "vae" in more else {}
    made = graph(loader=loader, sampler=sampler if "masked" in more else {}, **more, **pasting(mask))
    if how == "inpaint":
        made["sample"] = inpainting(["photo", 0], mask)
        made["paste"]["inputs"]["mask"] = ["sample", 1]
    image = saved(server, server.run(made)).image
    assert image.size == picture.size
    off = np.abs(np.asarray(image, dtype=int) - np.asarray(picture, dtype=int)).max(-1)
    assert not off[:, 80:-80].any()
    assert not off[:4].any()
    assert off[40:88, :24].mean() > 4
    assert off[40:88, -24:].mean() > 4
    if "vae" in more:
        return  # whose picture is noise
    steps = np.abs(np.diff(np.asarray(image, dtype=float), axis=1, append=np.asarray(image, dtype=float)[:, :1]))
    assert steps[40:88, -1].mean() < 3 * steps[40:88, list(range(24)) + list(range(-25, -1))].mean() + 1


def test_a_photo_becomes_the_panorama_that_the_library_makes(server, tiny):
    photo = tiny.generate("a castle above a meadow at sunset", seed=7, steps=3).image.crop((196, 64, 316, 154))
    placed = {
        "class_type": "DiT360PhotoToPanorama",
        "inputs": {
            "image": ["load image", 0], "fov": 70.0, "yaw": 170.0, "pitch": 5.0, "roll": 3.0, "width": 256, "height": 0,
        },
    }  # fmt: skip
    made = graph(
        **{"load image": loaded(server, "photo", photo)}, placed=placed,
        **pasting(["sample", 1], original=("placed", 0)),
    )  # fmt: skip
    made["sample"] = inpainting(["placed", 0], ["placed", 1])
    image = saved(server, server.run(made)).image
    expected = tiny.generate(
        "a castle above a meadow at sunset", photo=Photo(photo, fov=70, yaw=170, pitch=5, roll=3), width=256, steps=3,
        seed=7,
    )  # fmt: skip
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(expected.image, dtype=int)).max() <= 1


def test_a_view_is_edited_by_comfyuis_own_node_and_put_back(server, picture):
    looking = {"fov": 70.0, "yaw": 180.0, "pitch": 0.0, "roll": 0.0}
    view = {
        "class_type": "DiT360PanoramaToView",
        "inputs": {"panorama": ["photo", 0], **looking, "width": 128, "height": 128},
    }
    edited = {"class_type": "ImageInvert", "inputs": {"image": ["view", 0]}}
    back = {
        "class_type": "DiT360ViewToPanorama",
        "inputs": {
            "panorama": ["photo", 0],
            "view": ["edited", 0],
            **looking,
            "feather": 2.0,
            "only_changes": True,
            "camera": ["view", 2],
        },
    }
    save = {"class_type": "SaveImage", "inputs": {"images": ["back", 0], "filename_prefix": "pano"}}
    graph_ = {"photo": loaded(server, "whole", picture), "view": view, "edited": edited, "back": back, "save": save}
    image = np.asarray(saved(server, server.run(graph_)).image, dtype=int)
    own = np.asarray(picture, dtype=int)
    assert np.array_equal(image[:, 40:-40], own[:, 40:-40])
    inverted = np.abs(image - (255 - own))[60:68]
    assert max(inverted[:, :10].max(), inverted[:, -10:].max()) < 24


@pytest.mark.parametrize(
    ("node", "inputs", "told"),
    [
        ("region", {"fov": 180.0}, "fov is 180.0, but must be 1.0 … 179.0"),
        ("region", {"width": 1000, "height": 500}, "take 992×496, or leave height at 0"),
        ("sample", {"blur_radius": 60}, "blur_radius is 60, but must be 0 … 50"),
        ("sample", {"denoise": 0.001}, "denoise is 0.001, but must be 0, or 0.01 … 1"),
        ("paste", {"feather": 90.0}, "feather is 90.0, but must be -1.0 … 45.0"),
    ],
)
def test_bad_input_of_editing_is_one_sentence_at_its_node(server, picture, node, inputs, told):
    region = {"yaw": 0.0, "pitch": 0.0, "fov": 60.0, "grow": 0.0, "soften": 0.0, "width": 0, "height": 0}
    bad = graph(
        photo=loaded(server, "whole", picture),
        region={"class_type": "DiT360RegionMask", "inputs": {**region, "image": ["photo", 0]}},
        **pasting(["sample", 1]),
    )
    bad["sample"] = inpainting(["photo", 0], ["region", 0])
    bad[node]["inputs"] |= inputs
    answer = server.queue(bad)
    assert answer.status == 400
    assert list(answer.body["node_errors"]) == [node]
    (error,) = answer.body["node_errors"][node]["errors"]
    assert told in error["details"]
    assert "\n" not in error["details"]


@pytest.mark.parametrize(
    ("node", "inputs", "told"),
    [
        ("load", {"model_path": "tinny"}, "did you mean tiny"),
        ("load", {"attention_backend": "fancy"}, "There is no attention backend named 'fancy'"),
        ("sample", {"width": 256, "height": 64}, "take 256×128"),
        ("sample", {"scheduler_type": "eular"}, "There is no scheduler named 'eular'"),
        ("sample", {"steps": 500}, "steps is 500, but must be 0 … 150"),
        ("sample", {"denoise": 0.5}, "connect a DiT360 Encode to it"),
    ],
)
def test_bad_input_is_one_sentence_at_its_node_before_anything_runs(server, node, inputs, told):
    bad = graph()
    bad[node]["inputs"] |= inputs
    answer = server.queue(bad)
    assert answer.status == 400
    assert list(answer.body["node_errors"]) == [node]
    (error,) = answer.body["node_errors"][node]["errors"]
    assert told in error["details"]
    assert "\n" not in error["details"]


def test_what_only_running_can_tell_is_one_sentence_and_the_server_goes_on(server):
    empty = {"class_type": "EmptyLatentImage", "inputs": {"width": 256, "height": 128, "batch_size": 1}}
    begun = graph(sampler={"denoise": 0.5, "latent_image": ["empty", 0]}, empty=empty)
    assert sentence(server.run(begun)).startswith("The latents have 4 channels, and this model's have 16")
    strict = graph(loader={"attention_backend": "needy", "strict": True})
    told = sentence(server.run(strict))
    assert "'needy' cannot be used here" in told
    assert "surely-not-installed" in told
    saved(server, server.run(graph(sampler={"seed": 31})))


def test_a_plugin_that_fails_stops_nothing_and_is_named_in_the_report(server):
    report = server.run(graph(report={"class_type": "DiT360Backends", "inputs": {"try_kernels": False}}))
    (text,) = report["outputs"]["report"]["text"]
    assert "raises-on-import 0.1.0" in text
    assert "- needy: surely-not-installed is not installed" in text
    assert "+ mine" in text


def test_a_kernel_of_a_plugin_makes_the_picture_that_any_makes(server, tmp_path):
    pictures = [
        np.asarray(saved(server, server.run(graph(loader={"attention_backend": name}))).image, dtype=int)
        for name in ("sdpa", "mine")
    ]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@contextmanager
def resident(server):
    """Bytes that the server holds; yields a function."""
    process = psutil.Process(server.pid)
    yield lambda: process.memory_info().rss


def test_memory_returns_by_the_node_and_by_comfyuis_own_button(server, scaled):
    weights = sum(file.stat().st_size for file in scaled.glob("*/*.safetensors"))
    big = {"custom_model": str(scaled), "precision": "fp32"}
    with resident(server) as held:
        server.run(graph())  # libraries that the first picture imports stay
        server.post("/free", {"unload_models": True, "free_memory": True})
        before = _settled(held)
        unload = {"class_type": "DiT360Unload", "inputs": {"value": ["decode", 0], "dit360_pipe": ["load", 0]}}
        entry = server.run(graph(loader=big, sampler={"steps": 1}, unload=unload))
        saved(server, entry)
        assert "Dropped 1 model" in entry["outputs"]["unload"]["text"][0]
        assert _settled(held) - before < 0.3 * weights

        lean = graph(loader={**big, "evict": "all"}, sampler={"steps": 1})
        saved(server, server.run(lean))
        assert _settled(held) - before < 0.3 * weights

        again = graph(loader=big, sampler={"steps": 1, "seed": 2})
        again["read"]["inputs"]["prompt"] = "so that the text encoders are used, whose files are not in memory before"
        saved(server, server.run(again))
        assert _settled(held) - before > 0.4 * weights
        server.post("/free", {"unload_models": True, "free_memory": True})
        assert _settled(held, below=before + 0.3 * weights) - before < 0.3 * weights


def _settled(held, below: float = 0.0, seconds: float = 120.0) -> int:
    """What is held when it has come down, which ComfyUI does some seconds after a graph."""
    until = time.monotonic() + (seconds if below else 1.0)
    while time.monotonic() < until and held() > below:
        time.sleep(0.2)
    return held()


def test_a_graph_leaves_its_settings_in_the_panorama(server):
    view = {"class_type": "Equirect360Preview", "inputs": {"images": ["decode", 0]}}
    entry = server.run(graph(view=view))
    (told,) = entry["outputs"]["view"]["dit360_panoramas"]
    file = server.base / told["type"] / told["subfolder"] / told["filename"]
    panorama = Panorama.open(file)
    assert panorama.settings["prompt"] == "a castle above a meadow at sunset"
    assert panorama.settings["used"]["seed"] == 7
    assert json.dumps(panorama.settings)
    # Its result is a file. If that is gone, the same graph writes it again, and paints nothing again for it.
    again = server.run(graph(view=view))
    assert "view" in cached(again)
    file.unlink()
    again = server.run(graph(view=view))
    assert {"load", "read", "sample", "decode"} <= cached(again)
    (told,) = again["outputs"]["view"]["dit360_panoramas"]
    assert (server.base / told["type"] / told["subfolder"] / told["filename"]).is_file()
