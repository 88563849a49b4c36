"""What ComfyUI shows beside the nodes: as the nodes are, whole, and served by a real ComfyUI."""

import importlib.util
import io
import json
import re
import sys
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfy_server import Server, errors
from comfy_workflows import as_prompt, change, kinds, widget_names
from dit360_comfy.nodes import NODE_CLASS_MAPPINGS
from dit360_core.panorama.picture import Panorama
from headless_browser import chromium
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
PACK = ROOT / "dit360-comfy/src/dit360_comfy/node_pack"
WORKFLOWS = {path.stem: path for path in sorted((PACK / "example_workflows").glob("*.json"))}
COMMAND = "python dit360-comfy/pack"


@pytest.fixture(scope="session")
def pack():
    """The generator's modules, imported as ``python dit360-comfy/pack`` does."""
    folder = ROOT / "dit360-comfy/pack"
    names = {path.stem for path in folder.glob("*.py")} - {"__main__"}
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("dit360_comfy_pack", folder / "__main__.py")
        main = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(main)
        return SimpleNamespace(main=main, **{name: sys.modules[name] for name in names if name in sys.modules})
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def nodes(pack):
    return pack.described.described()


def loaded(name):
    return json.loads(WORKFLOWS[name].read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------------------------- from the nodes


def test_what_comfyui_shows_is_what_the_nodes_say(pack):
    stale = [str(path.relative_to(ROOT)) for path in pack.main.changes(pack.main.contents())]
    assert not stale, f"not as the nodes are now: {', '.join(stale)}. If that is meant: {COMMAND}"


def test_a_change_of_a_node_would_be_noticed(pack, monkeypatch):
    monkeypatch.setattr(NODE_CLASS_MAPPINGS["DiT360Decode"], "DESCRIPTION", "Something else.")
    stale = {path.name for path in pack.main.changes(pack.main.contents())}
    assert stale == {"node_schema.json", "nodeDefs.json"}


def test_what_the_snapshot_leaves_out_is_what_this_machine_adds_and_nothing_else(pack, nodes):
    for name, node in NODE_CLASS_MAPPINGS.items():
        for section, inputs in node.INPUT_TYPES().items():
            for given, spec in inputs.items():
                here, told = pack.described.plain(spec), dict(nodes[name]["inputs"][section][given])
                goes_on = told.pop("tooltip_goes_on", False)
                if goes_on:
                    assert here.pop("tooltip").startswith(told.pop("tooltip"))
                if any(isinstance(choice, dict) for choice in told.get("choices", ())):
                    fixed = [choice for choice in told.pop("choices") if isinstance(choice, str)]
                    assert here.pop("choices")[: len(fixed)] == fixed
                assert here == told, (name, given)


def test_every_node_input_and_output_is_explained(pack, nodes):
    for name, node in nodes.items():
        assert node["description"].endswith("."), name
        for given in pack.described.inputs_of(node):
            assert given.spec.get("tooltip", "").endswith("."), (name, given.name)
        for output in node["outputs"]:
            assert output["tooltip"].endswith("."), (name, output["name"])


# ------------------------------------------------------------------------------------------ workflows that exist

FROM_REGISTRY = {
    "attention": ["auto", "eager", "xformers", "flash"],
    "quantization": ["none", "int8", "int4"],
    "scheduler": ["flow_match", "ddim"],
}
MODELS_OWN = "left to the model, so that the same node serves each"
OTHER_DEFAULTS = {
    ("DiT360Loader", "precision"): ("auto", "fp16 overflows in FLUX's autoencoder, and CPUs compute it slowly"),
    ("DiT360TextEncode", "max_length"): (0, MODELS_OWN),
    ("DiT360Sampler", "width"): (0, MODELS_OWN),
    ("DiT360Sampler", "height"): (0, MODELS_OWN),
    ("DiT360Sampler", "steps"): (0, MODELS_OWN),
    ("DiT360Sampler", "cfg_scale"): (-1, MODELS_OWN),
    ("DiT360Sampler", "circular_padding"): (-1, MODELS_OWN),
    ("DiT360Inpaint", "steps"): (0, MODELS_OWN),
    ("DiT360Inpaint", "cfg_scale"): (-1, MODELS_OWN),
    ("DiT360Decode", "auto_blend_edges"): (False, "decoding wraps around and leaves nothing to blend"),
}
"""Where a new node begins with something else than people's workflows do, and why. Saved ones keep their values."""

PIXELS = (-1, 268435456, -1)
WORKED_WITH = {
    # Node: its outputs, then its inputs; a number: (least, most, default); a drop-down: (choices, default).
    "DiT360Loader": (["DIT360_PIPE"], {
        "model_path": str, "precision": (["fp16", "bf16", "fp32", "fp8"], "fp16"), "vae_path": str, "t5_path": str,
        "offload_to_cpu": True,
        "attention_backend": (FROM_REGISTRY["attention"], "auto"),
        "attention_slice_size": (-1, 8192, 0),
        "quantization_mode": (FROM_REGISTRY["quantization"], "none"),
        "vae_tile_size": (512, 8192, 1536),
        "vae_tile_overlap": (0, 1024, 128),
        "vae_auto_tile_pixels": (0, 268435456, 16777216),
    }),
    "DiT360TextEncode": (["CONDITIONING"], {
        "dit360_pipe": "DIT360_PIPE", "prompt": str, "negative_prompt": str, "max_length": (77, 1024, 512),
    }),
    "DiT360Sampler": (["LATENT"], {
        "dit360_pipe": "DIT360_PIPE", "conditioning": "CONDITIONING",
        "width": (512, 8192, 2048), "height": (256, 4096, 1024), "steps": (1, 150, 50), "cfg_scale": (0, 20, 3.0),
        "seed": (0, 2**64 - 1, 0), "circular_padding": (0, 100, 10), "latent_image": "LATENT", "denoise": (0, 1, 1.0),
        "enable_yaw_loss": False, "yaw_loss_weight": (0, 1, 0.1),
        "enable_cube_loss": False, "cube_loss_weight": (0, 1, 0.1),
        "scheduler_type": (FROM_REGISTRY["scheduler"], "flow_match"),
        "timestep_schedule": (["linear", "quadratic", "cosine"], "linear"),
        "scheduler_eta": (0, 1, 0.0),
        "attention_backend": (["pipeline", *FROM_REGISTRY["attention"]], "pipeline"),
        "attention_slice_size": (-1, 8192, -1),
        "log_memory_stats": False,
    }),
    "DiT360Decode": (["IMAGE"], {
        "samples": "LATENT", "dit360_pipe": "DIT360_PIPE", "auto_blend_edges": True,
        "tiling_mode": (["auto", "always", "never"], "auto"),
        "tile_size_override": (0, 8192, 0), "tile_overlap_override": (-1, 1024, -1),
        "max_tile_pixels_override": PIXELS,
    }),
    "DiT360PipeBreakout": (["DIT360_MODEL", "DIT360_VAE", "DIT360_TEXT_ENCODER", "DIT360_PIPE"], {
        "dit360_pipe": "DIT360_PIPE",
    }),
    "DiT360PipeCombine": (["DIT360_PIPE"], {
        "base_pipe": "DIT360_PIPE", "model": "DIT360_MODEL", "vae": "DIT360_VAE",
        "text_encoder": "DIT360_TEXT_ENCODER",
        "dtype_override": str, "device_override": str, "offload_device_override": str,
        "quantization_override": (["pipeline", *FROM_REGISTRY["quantization"]], "pipeline"),
        "attention_backend_override": (["pipeline", *FROM_REGISTRY["attention"]], "pipeline"),
        "attention_slice_override": (-1, 8192, -1), "vae_tile_size_override": (0, 8192, 0),
        "vae_tile_overlap_override": (-1, 1024, -1), "vae_auto_tile_override": PIXELS,
        "refresh_metadata_from_components": True,
    }),
    "Equirect360Process": (["IMAGE"], {
        "image": "IMAGE", "enforce_2_1_ratio": True, "fix_mode": (["none", "crop", "pad", "stretch"], "pad"),
        "blend_edges": True, "blend_width": (0, 100, 10), "blend_mode": (["linear", "cosine", "smooth"], "cosine"),
    }),
    "Equirect360Preview": ([], {"images": "IMAGE"}),  # outputs of ours come after those
    "DiT360LoRALoader": (["DIT360_PIPE"], {
        "dit360_pipe": "DIT360_PIPE", "lora_path": str, "strength": (-2, 2, 1.0),
        "merge_mode": (["merge", "unmerge"], "merge"),
    }),
    "DiT360Inpaint": (["LATENT"], {
        "dit360_pipe": "DIT360_PIPE", "conditioning": "CONDITIONING", "image": "IMAGE", "mask": "MASK",
        "steps": (1, 200, 50), "cfg_scale": (1, 20, 7.0), "denoise": (0, 1, 1.0), "blur_radius": (0, 50, 10),
        "blend_mode": (["linear", "cosine", "smooth"], "cosine"), "seed": (0, 2**64 - 1, 0),
    }),
}  # fmt: skip
"""What workflows that people have saved expect of these nodes, in their order."""


@pytest.mark.parametrize("name", WORKED_WITH)
def test_workflows_that_people_have_still_open(pack, name):
    outputs, inputs = WORKED_WITH[name]
    node = NODE_CLASS_MAPPINGS[name]
    # What a node of ours gives besides, comes after.
    assert [str(kind) for kind in node.RETURN_TYPES][: len(outputs)] == outputs
    sections = node.INPUT_TYPES()
    here = {**sections["required"], **sections.get("optional", {})}
    # Front ends save the values of widgets by their order, so ours come after those.
    assert list(here)[: len(inputs)] == list(inputs)
    for given, wanted in inputs.items():
        spec = pack.described.plain(here[given])
        default = spec.get("default")
        if wanted is str:
            assert spec["type"] in ("STRING", "COMBO"), given
            continue
        if isinstance(wanted, str):
            assert spec["type"] == wanted, given
            continue
        if isinstance(wanted, bool):
            assert spec["type"] == "BOOLEAN", given
            usual = wanted
        elif isinstance(wanted[0], list):
            choices, usual = wanted
            assert set(choices) <= set(spec["choices"]), given
        else:
            least, most, usual = wanted
            assert spec["type"] == ("FLOAT" if isinstance(usual, float) else "INT"), given
            assert spec["min"] <= least, given
            assert spec["max"] >= most, given
        assert default == OTHER_DEFAULTS.get((name, given), (usual,))[0], given


def test_no_input_of_ours_must_be_given_that_those_workflows_do_not_give():
    for name, (_, inputs) in WORKED_WITH.items():
        assert set(NODE_CLASS_MAPPINGS[name].INPUT_TYPES()["required"]) <= set(inputs), name


# ------------------------------------------------------------------------------------------------- the examples


def test_there_are_examples_each_with_a_thumbnail():
    assert {"DiT360 low VRAM", "DiT360 fast", "DiT360 quality", "DiT360 on native FLUX"} <= set(WORKFLOWS)
    assert {"Photo to panorama", "Remove an object"} <= set(WORKFLOWS)
    # Sorted by code points, and as browsers sort: punctuation is before letters.
    assert min(WORKFLOWS) == "DiT360 (start here)"
    for path in WORKFLOWS.values():
        picture = path.with_suffix(".jpg")
        assert picture.stat().st_size < 60_000
        with Image.open(picture) as image:
            assert (image.format, image.width) == ("JPEG", 400)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_an_example_has_the_nodes_values_and_links_that_it_needs(pack, nodes, name):
    workflow = loaded(name)
    known = {**pack.comfy_nodes.NODES, **nodes}
    assert kinds(workflow) <= set(known)
    by_id = {node["id"]: node for node in workflow["nodes"]}
    assert len(by_id) == len(workflow["nodes"]) == workflow["last_node_id"]
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        _check_values(pack, known[node["type"]], node)
        for slot, given in enumerate(node["inputs"]):
            if given["link"] is not None:
                (link,) = [link for link in workflow["links"] if link[0] == given["link"]]
                assert link[3:] == [node["id"], slot, given["type"]]
        for slot, output in enumerate(node["outputs"]):
            assert [link[0] for link in workflow["links"] if link[1:3] == [node["id"], slot]] == output["links"]
    for _, origin, output, target, slot, kind in workflow["links"]:
        assert by_id[origin]["order"] < by_id[target]["order"]
        assert by_id[origin]["outputs"][output]["type"] == kind == by_id[target]["inputs"][slot]["type"]


def _check_values(pack, known, node):
    inputs = pack.described.inputs_of(known)
    connected = {given["name"] for given in node["inputs"] if given["link"] is not None}
    assert {given.name for given in inputs if given.required and not given.is_widget} <= connected
    values = iter(node["widgets_values"])
    for spec in (given.spec for given in inputs if given.is_widget):
        value = next(values)
        kinds_ = {"INT": int, "FLOAT": (int, float), "STRING": str, "COMBO": str, "BOOLEAN": bool}
        assert isinstance(value, kinds_[spec["type"]]), value
        if spec["type"] == "COMBO" and all(isinstance(choice, str) for choice in spec["choices"]):
            assert value in spec["choices"]
        if "min" in spec:
            assert spec["min"] <= value <= spec["max"]
        if spec.get("control_after_generate"):
            assert next(values) in ("fixed", "increment", "decrement", "randomize")
    assert list(values) == []


def test_nodes_of_an_example_do_not_lie_on_each_other():
    for name in WORKFLOWS:
        boxes = [
            (node["pos"][0], node["pos"][1] - 30, node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1])
            for node in loaded(name)["nodes"]
        ]
        for at, one in enumerate(boxes):
            for other in boxes[at + 1 :]:
                assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1], name


def test_memory_that_an_example_speaks_of_is_what_the_readme_predicts():
    (note,) = [node for node in loaded("DiT360 low VRAM")["nodes"] if node["type"] == "MarkdownNote"]
    figures = re.findall(r"[\d.]+ GiB", note["widgets_values"][0])
    (row,) = [
        line
        for line in (ROOT / "docs/choosing.md").read_text("utf-8").splitlines()
        if line.startswith("| `--preset low-vram`")
    ]
    assert figures
    assert set(figures) <= set(re.findall(r"[\d.]+ GiB", row))


def test_the_example_with_comfyui_s_own_flux_has_the_noise_levels_and_words_of_dit360(pack):
    """ModelSamplingFlux: mu is linear in tokens of 16×16 pixels, base_shift at 256 and max_shift at 4096."""
    from dit360_core.plugins.builtin.models import DIT360

    values = {node["type"]: node["widgets_values"] for node in loaded("DiT360 on native FLUX")["nodes"]}
    most, least, width, height = values["ModelSamplingFlux"]
    mu = least + (most - least) * (width * height / 256 - 256) / (4096 - 256)
    assert round(mu, 3) == 1.865
    latent = values["EmptySD3LatentImage"]
    assert latent[:2] == [DIT360.width, DIT360.height] == [width - 32 * values["DiT360CircularPadding"][0], height]
    assert values["CLIPTextEncode"][0].startswith(DIT360.prompt_prefix)
    assert values["FluxGuidance"] == [DIT360.guidance]
    assert values["KSampler"][2:4] == [DIT360.steps, 1.0]


# ---------------------------------------------------------------------------------------- translations and help


def test_no_sentence_means_something_else_to_the_translator(pack):
    def sentences(content):
        return [content] if isinstance(content, str) else [s for value in content.values() for s in sentences(value)]

    for sentence in sentences(json.loads((PACK / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))):
        assert not set(re.sub(r"\{'.'\}", "", sentence)) & set("{}@|"), sentence
    assert pack.translation.message("a|b@c {d}") == "a{'|'}b{'@'}c {'{'}d{'}'}"


def test_a_translation_does_not_hide_what_cannot_be_used_here(nodes):
    told = json.loads((PACK / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))
    assert nodes["DiT360Loader"]["inputs"]["optional"]["quantization_mode"]["tooltip_goes_on"]
    assert set(told["DiT360Loader"]["inputs"]["quantization_mode"]) == {"name"}
    assert told["DiT360Loader"]["inputs"]["vram"]["tooltip"]


def test_help_is_short_and_names_only_inputs_that_are_there(pack, nodes):
    every = {given.name for node in nodes.values() for given in pack.described.inputs_of(node)}
    every |= set(pack.comfy_nodes.NODES["KSampler"]["inputs"]["required"])
    named = re.compile(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`")
    for name in nodes:
        text = (pack.help_pages.WRITTEN / f"{name}.md").read_text(encoding="utf-8")
        assert len(text) < 2500, name
        assert text.startswith(f"# {nodes[name]['display_name']}\n")
        assert set(named.findall(text)) <= every, name
    assert {path.stem for path in pack.help_pages.WRITTEN.glob("*.md")} == set(nodes)


# ------------------------------------------------------------------------------------------------- in a real ComfyUI


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "dit360-comfy").symlink_to(PACK)
    with Server(base) as running:
        yield running


@pytest.fixture(scope="module")
def known(server):
    return server.get("/object_info").body


@pytest.mark.comfyui
def test_comfyui_knows_every_node_of_the_examples_as_they_do(pack, known):
    for name in WORKFLOWS:
        workflow = loaded(name)
        assert kinds(workflow) <= set(known)
        for node in workflow["nodes"]:
            if node["type"] in pack.comfy_nodes.NODES:
                _check_core_node(pack.comfy_nodes.NODES[node["type"]], known[node["type"]])
        as_prompt(workflow, known)


def _check_core_node(told, here):
    """What the examples know of one of ComfyUI's own nodes is true."""
    for section, inputs in told["inputs"].items():
        assert list(inputs) == list(here["input"][section])
        for name, spec in inputs.items():
            kind, *settings = here["input"][section][name]
            choices = kind if isinstance(kind, list) else settings[0].get("options") if kind == "COMBO" else None
            assert (kind if choices is None else "COMBO") == spec["type"]
            assert {choice for choice in spec.get("choices", ()) if isinstance(choice, str)} <= set(choices or ())
    assert here["output"] == [output["type"] for output in told["outputs"]]


@pytest.mark.comfyui
def test_the_template_browser_offers_and_serves_the_examples(server):
    assert server.get("/api/workflow_templates").body["dit360-comfy"] == sorted(WORKFLOWS)
    assert server.get("/workflow_templates").body["dit360-comfy"][0] == "DiT360 (start here)"
    for name, path in WORKFLOWS.items():
        url = f"/api/workflow_templates/dit360-comfy/{urllib.parse.quote(name)}"
        assert server.get(f"{url}.json").body == loaded(name)
        assert server.get(f"{url}.jpg").body == path.with_suffix(".jpg").read_bytes()


@pytest.mark.comfyui
def test_comfyui_serves_the_names_and_help_of_every_node(server, nodes):
    told = server.get("/i18n").body["en"]["nodeDefs"]
    for name, node in nodes.items():
        assert told[name]["display_name"] == node["display_name"]
        page = server.get(f"/extensions/dit360-comfy/docs/{name}.md")
        assert page.status == 200
        assert page.body.decode().startswith(f"# {node['display_name']}\n")


@pytest.mark.comfyui
def test_the_examples_of_our_own_run_to_a_saved_panorama_without_a_seam(server, known):
    ran = 0
    for name in WORKFLOWS:
        workflow = loaded(name)
        if "DiT360Loader" not in kinds(workflow):
            continue
        change(workflow, known, "DiT360Loader", model_path="tiny")
        # Blocks of JPEG have edges of their own.
        change(workflow, known, "Equirect360Preview", format="png")
        # Not every picture of this small model closes as well as decoding lets it.
        change(workflow, known, "DiT360TextEncode", prompt="a castle above a meadow at sunset")
        done = server.run(as_prompt(workflow, known))
        assert errors(done) == []
        (told,) = [told for output in done["outputs"].values() for told in output.get("dit360_panoramas", ())]
        assert told["type"] == "output"
        picture = server.view({key: told[key] for key in ("filename", "subfolder", "type")})
        with Image.open(io.BytesIO(picture)) as image:
            assert b"GPano" in image.info["xmp"]
        panorama = Panorama.open(server.base / "output" / told["subfolder"] / told["filename"])
        assert panorama.size == (512, 256)
        assert panorama.seam.ratio < 1.25, (name, panorama.seam)
        ran += 1
    assert ran == 6


@pytest.mark.comfyui
def test_an_example_whose_values_are_off_is_refused_before_it_runs(server, known):
    """So that the tests above would notice values in the wrong order."""
    workflow = loaded("DiT360 fast")
    names = list(widget_names(known["DiT360Sampler"]))
    assert names[names.index("seed") + 1] == ""
    (sampler,) = [node for node in workflow["nodes"] if node["type"] == "DiT360Sampler"]
    sampler["widgets_values"].insert(0, sampler["widgets_values"].pop())
    assert server.queue(as_prompt(workflow, known)).status == 400


# In the page: waits for the front end, opens an example as its template browser does, and asks for what "Run" sends.
_OPENED = """(async (url) => {
    const nodes = () => window.LiteGraph?.registered_node_types ?? {};
    while (!window.app?.graph || !nodes().DiT360Loader) await new Promise((done) => setTimeout(done, 200));
    await app.loadGraphData(await (await fetch(url)).json());
    const prompt = Object.entries((await app.graphToPrompt()).output);
    return Object.fromEntries(prompt.map(([id, {class_type, inputs}]) => [id, {class_type, inputs}]));
})"""


@pytest.mark.comfyui
@pytest.mark.browser
def test_the_front_end_opens_every_example_and_makes_the_same_prompt_of_it(server, known, tmp_path):
    with chromium(tmp_path) as browser:
        browser.load(server.url)
        for name in WORKFLOWS:
            url = f"/api/workflow_templates/dit360-comfy/{urllib.parse.quote(name)}.json"
            assert browser.run(f"{_OPENED}({json.dumps(url)})") == as_prompt(loaded(name), known)
            assert "Invalid workflow" not in browser.run("document.body.innerText")
