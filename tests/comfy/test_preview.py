"""Equirect360Preview without ComfyUI: what it writes, where, and what it refuses before it writes anything."""

import inspect
import json
import os
import re
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import dit360_comfy
import dit360_core
import numpy as np
import pytest
import torch
from dit360_comfy.nodes.preview import UI_KEY, Equirect360Preview
from dit360_comfy.settings import remember
from dit360_core.errors import InputError
from dit360_core.panorama.metadata import parse_xmp
from dit360_core.panorama.picture import Panorama
from PIL import Image

PROMPT = {"7": {"class_type": "Equirect360Preview", "inputs": {"text": "Hafen · 港"}}}
WEB = Path(dit360_comfy.__file__).parent / "node_pack" / "web"
WORKFLOW = {"nodes": [{"id": 7, "title": "ü"}], "version": 0.4}


@pytest.fixture
def comfy(monkeypatch, tmp_path) -> SimpleNamespace:
    """The modules of ComfyUI that the node asks, with folders of their own."""

    def get_save_image_path(prefix: str, root: str, width: int, height: int) -> tuple[str, str, int, str, str]:
        prefix = prefix.replace("%width%", str(width)).replace("%height%", str(height))
        subfolder, name = os.path.split(os.path.normpath(prefix))
        folder = Path(root) / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder), name, 1 + len(os.listdir(folder)), subfolder, prefix

    fake = SimpleNamespace(
        output=tmp_path / "output", temp=tmp_path / "temp", input=tmp_path / "input", args=SimpleNamespace()
    )
    fake.args.disable_metadata = False
    fake.output.mkdir()
    fake.input.mkdir()
    folders = SimpleNamespace(
        get_output_directory=lambda: str(fake.output),
        get_temp_directory=lambda: str(fake.temp),
        get_save_image_path=get_save_image_path,
        get_annotated_filepath=lambda name: str(fake.input / name),
    )
    monkeypatch.setitem(sys.modules, "folder_paths", folders)
    monkeypatch.setitem(sys.modules, "comfy", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "comfy.cli_args", SimpleNamespace(args=fake.args))
    fake.check = lambda: None
    memory = SimpleNamespace(
        throw_exception_if_processing_interrupted=lambda: fake.check(),
        # A model of another test may go just now.
        soft_empty_cache=lambda: None,
        get_torch_device=lambda: torch.device("cpu"),
    )
    monkeypatch.setitem(sys.modules, "comfy.model_management", memory)
    return fake


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def preview(images: torch.Tensor, **inputs: object) -> list[dict]:
    answer = Equirect360Preview().run(images, **inputs)
    assert set(answer) == {"ui", "result"}
    assert set(answer["ui"]) == {UI_KEY}
    return answer["ui"][UI_KEY]


def written(comfy: SimpleNamespace) -> list[Path]:
    return sorted(path for root in (comfy.output, comfy.temp) for path in root.rglob("*") if path.is_file())


def path_of(comfy: SimpleNamespace, told: dict) -> Path:
    root = {"output": comfy.output, "temp": comfy.temp}[told["type"]]
    return root / told["subfolder"] / told["filename"]


# ------------------------------------------------------------------------------------------------- the class


def test_every_input_says_what_it_is_for():
    types = Equirect360Preview.INPUT_TYPES()
    inputs = types["required"] | types["optional"]
    assert set(types["required"]) == {"images"}  # which is all that existing graphs give
    assert all(options["tooltip"] for _, options in inputs.values())
    assert types["hidden"] == {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO", "unique_id": "UNIQUE_ID"}
    assert (Equirect360Preview.OUTPUT_NODE, Equirect360Preview.RETURN_TYPES) == (True, ("IMAGE", "MASK"))
    assert callable(getattr(Equirect360Preview, Equirect360Preview.FUNCTION))


def test_the_defaults_are_those_of_the_inputs(comfy):
    told = {name: options["default"] for name, (_, options) in Equirect360Preview.INPUT_TYPES()["optional"].items()}
    given = {name: p.default for name, p in inspect.signature(Equirect360Preview.run).parameters.items()}
    assert told == {name: given[name] for name in told}


# ------------------------------------------------------------------------------------------------- what it writes


def test_a_batch_becomes_as_many_files_with_their_own_settings(comfy):
    images = remember(noise(3, 16, 32, 3), [{"seed": 1}, {"seed": 2}, {"seed": 3}])
    told = preview(images, format="png")
    assert len(told) == len(written(comfy)) == 3
    for number, file in enumerate(told):
        assert (file["width"], file["height"], file["type"]) == (32, 16, "temp")
        panorama = Panorama.open(path_of(comfy, file))
        assert panorama.settings == {"seed": number + 1}
        assert np.array_equal(np.asarray(panorama.image), (images[number] * 255).round().byte().numpy())


@pytest.mark.parametrize("format", ["jpg", "png", "webp"])
def test_every_format_is_a_panorama_to_other_viewers(comfy, format):
    (told,) = preview(noise(1, 16, 32, 3), format=format, prompt=PROMPT, extra_pnginfo={"workflow": WORKFLOW})
    with Image.open(path_of(comfy, told)) as image:
        image.load()
        gpano = parse_xmp(image.info["xmp"]).gpano
    assert (gpano["ProjectionType"], gpano["FullPanoWidthPixels"]) == ("equirectangular", "32")


def test_alpha_is_dropped_and_grey_is_grey(comfy):
    images = noise(1, 16, 32, 4)
    (told,) = preview(images, format="png")
    assert np.array_equal(
        np.asarray(Panorama.open(path_of(comfy, told)).image), (images[0, ..., :3] * 255).round().byte().numpy()
    )
    (told,) = preview(images[..., :1], format="png")
    pixels = np.asarray(Panorama.open(path_of(comfy, told)).image)
    assert np.array_equal(pixels, np.repeat((images[0, ..., :1] * 255).round().byte().numpy(), 3, axis=2))


def test_colours_outside_of_their_range_are_clamped_and_half_precision_is_read(comfy):
    images = torch.full((1, 16, 32, 3), 1.5, dtype=torch.bfloat16)
    images[:, 8:] = -0.5
    (told,) = preview(images, format="png")
    pixels = np.asarray(Panorama.open(path_of(comfy, told)).image)
    assert (pixels[:8] == 255).all()
    assert (pixels[8:] == 0).all()


def test_temporary_files_have_new_names_each_run(comfy):
    names = {preview(noise(1, 16, 32, 3))[0]["filename"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("dit360_temp_") and name.endswith("_.jpg") for name in names)


def test_saved_files_go_to_the_output_folder_under_the_name_given(comfy):
    (told,) = preview(noise(1, 16, 32, 3), save=True, filename_prefix="walks/%width%", format="webp")
    assert (told["subfolder"], told["filename"], told["type"]) == ("walks", "32_00001_.webp", "output")
    assert written(comfy) == [comfy.output / "walks" / "32_00001_.webp"]
    (told,) = preview(noise(1, 16, 32, 3), save=True, filename_prefix="walks/%width%", format="webp")
    assert told["filename"] == "32_00002_.webp"


def test_the_number_in_the_batch_can_be_part_of_the_name(comfy):
    told = preview(noise(2, 16, 32, 3), save=True, filename_prefix="a%batch_num%b")
    assert [file["filename"] for file in told] == ["a0b_00001_.jpg", "a1b_00002_.jpg"]


def test_a_lower_quality_is_a_smaller_file(comfy):
    sizes = [path_of(comfy, preview(noise(1, 32, 64, 3), quality=q)[0]).stat().st_size for q in (20, 95)]
    assert sizes[0] < sizes[1]


def test_the_user_can_end_it_between_two_pictures(comfy):
    class Interrupted(Exception):
        pass

    def check() -> None:
        if written(comfy):
            raise Interrupted

    comfy.check = check
    with pytest.raises(Interrupted):
        preview(noise(3, 16, 32, 3))
    assert len(written(comfy)) == 1


# ------------------------------------------------------------------------------------------------- the workflow


def exif_texts(path: Path) -> dict[str, str]:
    """The entries that the front end takes from a WebP file: text up to the first colon is the name."""
    with Image.open(path) as image:
        return dict(value.split(":", 1) for value in image.getexif().values())


def test_a_png_holds_the_workflow_as_saveimage_puts_it(comfy):
    (told,) = preview(noise(1, 16, 32, 3), format="png", prompt=PROMPT, extra_pnginfo={"workflow": WORKFLOW, "x": 1})
    with Image.open(path_of(comfy, told)) as image:
        image.load()
        assert json.loads(image.text["prompt"]) == PROMPT
        assert json.loads(image.text["workflow"]) == WORKFLOW
        assert image.text["x"] == "1"


def test_a_webp_holds_the_workflow_and_stays_a_valid_file(comfy):
    images = noise(1, 16, 32, 3)
    (told,) = preview(images, format="webp", prompt=PROMPT, extra_pnginfo={"workflow": WORKFLOW})
    (plain,) = preview(images, format="webp")
    path = path_of(comfy, told)
    texts = exif_texts(path)
    assert {name: json.loads(text) for name, text in texts.items()} == {"prompt": PROMPT, "workflow": WORKFLOW}
    data = path.read_bytes()
    assert struct.unpack_from("<I", data, 4) == (len(data) - 8,)
    assert data[20] & 0x0C == 0x0C  # VP8X tells of both EXIF and XMP
    assert data.index(b"EXIF") < data.index(b"XMP ")
    pictures = [np.asarray(Panorama.open(path_of(comfy, file)).image) for file in (told, plain)]
    assert np.array_equal(*pictures)  # nothing was encoded twice


@pytest.mark.parametrize("format", ["png", "webp"])
def test_no_workflow_where_comfyui_was_told_to_leave_it_out(comfy, format):
    comfy.args.disable_metadata = True
    (told,) = preview(noise(1, 16, 32, 3), format=format, prompt=PROMPT, extra_pnginfo={"workflow": WORKFLOW})
    data = path_of(comfy, told).read_bytes()
    assert b"class_type" not in data
    assert b"GPano:ProjectionType" in data


# ------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (torch.zeros(1, 32, 32, 3), "twice as wide as high, but this picture is 32×32"),
        (torch.zeros(2, 32, 63, 3), "63×32"),
        (torch.zeros(32, 64, 3), r"shape \(32, 64, 3\)"),
        (torch.zeros(0, 16, 32, 3), "no pictures"),
        (torch.zeros(1, 16, 32, 16), "1, 3 or 4 channels"),
        (torch.full((1, 16, 32, 3), float("nan")), "NaN"),
    ],
)
def test_what_is_no_panorama_is_refused_in_one_sentence_and_nothing_is_written(comfy, images, why):
    with pytest.raises(InputError, match=why) as refused:
        preview(images, save=True)
    assert "\n" not in str(refused.value)
    assert written(comfy) == []


@pytest.mark.parametrize("prefix", ["../a", "a/../../b", "/etc/a", "..", "", "  ", "."])
@pytest.mark.parametrize("save", [False, True])
def test_a_name_that_leaves_the_folder_or_is_none_is_refused(comfy, prefix, save):
    with pytest.raises(InputError, match="filename_prefix of"):
        preview(noise(1, 16, 32, 3), filename_prefix=prefix, save=save)
    assert written(comfy) == []


# ------------------------------------------------------------------------------------------------- the script


def test_comfyui_finds_one_script_and_it_fetches_nothing_from_elsewhere():
    assert [path.name for path in WEB.rglob("*.js")] == ["dit360.js"]  # each is loaded as an extension of its own
    for path in (*WEB.glob("*.js"), *WEB.glob("*.mjs")):
        code = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in code
        assert "eval(" not in code
        assert "innerHTML" not in code


def test_the_script_knows_the_key_of_the_node():
    assert f'"{UI_KEY}"' in (WEB / "dit360.js").read_text(encoding="utf-8")
    helpers = {path.name for path in WEB.glob("*.mjs")}
    assert all(f'"{name}"' in (WEB / "dit360.js").read_text(encoding="utf-8") for name in helpers)


def test_a_file_that_was_deleted_is_written_again_and_once(comfy):
    node = Equirect360Preview()
    node.run(noise(1, 16, 32, 3), unique_id="7")
    before = node.IS_CHANGED(unique_id="7")
    assert node.IS_CHANGED(unique_id="7") == before
    for path in written(comfy):
        path.unlink()
    after = node.IS_CHANGED(unique_id="7")
    assert after != before
    node.run(noise(1, 16, 32, 3), unique_id="7")
    assert node.IS_CHANGED(unique_id="7") == after
    assert node.IS_CHANGED(unique_id="8") == ""


# ------------------------------------------------------------------------------------------------- the mask


def painted(**inputs: object) -> torch.Tensor:
    images = noise(2, 16, 32, 3)
    given, mask = Equirect360Preview().run(images, **inputs)["result"]
    assert given is images
    assert (mask.shape, mask.dtype) == ((1, 16, 32), torch.float32)
    return mask


def test_what_was_painted_is_the_mask_and_nothing_where_nothing_was(comfy):
    assert not painted().any()
    grey = (np.arange(16 * 32) % 256).astype(np.uint8).reshape(16, 32)
    Image.fromarray(grey).save(comfy.input / "a.png")
    assert np.array_equal((painted(mask="a.png") * 255).round().byte().numpy()[0], grey)
    clear = np.stack((*[np.full_like(grey, 255)] * 3, grey), axis=-1)
    Image.fromarray(clear).save(comfy.input / "clear.png")  # what is transparent is not painted
    assert np.allclose(painted(mask="clear.png").numpy()[0], grey / 255, atol=1 / 255)


def test_a_mask_of_16_bits_says_the_same_as_one_of_8(comfy):
    levels = np.linspace(0, 65535, 16 * 32).astype(np.uint16).reshape(16, 32)
    Image.fromarray(levels).save(comfy.input / "deep.png")
    assert np.allclose(painted(mask="deep.png").numpy()[0], levels / 65535, atol=1 / 255)


def test_a_mask_of_another_size_is_made_to_fit(comfy):
    large = np.zeros((64, 128), np.uint8)
    large[:32, 64:] = 255
    Image.fromarray(large).save(comfy.input / "a.png")
    mask = painted(mask="a.png")[0]
    assert mask[:7, 17:31].min() == 1
    assert mask[9:].max() == mask[:, :15].max() == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.png", "is not in ComfyUI's input folder; paint it again, or empty the field"),
        ("square.png", "is 20×20, but a panorama's mask is twice as wide as high"),
        ("text.png", "cannot be read"),
        ("../secret.png", "would leave ComfyUI's folder"),
        ("/etc/passwd", "would leave ComfyUI's folder"),
        ("C:\\secret.png", "would leave ComfyUI's folder"),
    ],
)
def test_a_mask_that_is_none_is_one_sentence_before_anything_is_written(comfy, name, said):
    Image.new("L", (20, 20)).save(comfy.input / "square.png")
    (comfy.input / "text.png").write_text("text")
    with pytest.raises(InputError, match=re.escape(said)):
        Equirect360Preview().execute(images=noise(1, 16, 32, 3), mask=name)
    assert written(comfy) == []


def test_another_mask_of_the_same_name_is_another_result(comfy):
    before = Equirect360Preview.IS_CHANGED(mask="a.png")
    Image.new("L", (32, 16)).save(comfy.input / "a.png")
    black = Equirect360Preview.IS_CHANGED(mask="a.png")
    assert black == Equirect360Preview.IS_CHANGED(mask="a.png")
    Image.new("L", (32, 16), 255).save(comfy.input / "a.png")
    assert len({before, black, Equirect360Preview.IS_CHANGED(mask="a.png")}) == 3
    assert Equirect360Preview.IS_CHANGED(mask=None) == ""  # linked to another node


def test_the_node_paints_with_the_brush_of_the_core():
    brush = Path(dit360_core.__file__).parent / "panorama" / "page" / "painting"
    copies, originals = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (WEB / "painting", brush)
    )
    assert "mask.mjs" in copies
    assert copies == originals
