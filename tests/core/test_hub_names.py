"""Files of LoRAs on the Hub, in the forms in which people write where they are."""

import pytest
import torch
from dit360_core.errors import ModelError
from dit360_core.models.lora.finding import locate
from dit360_core.models.weights.hub_names import Named, named_on_hub
from safetensors.torch import save_file

FILE = "qwen/a [2512] v2.safetensors"


@pytest.mark.parametrize(
    ("text", "repository", "file", "revision"),
    [
        ("someone/style", "someone/style", "", None),
        ("someone/style/a.safetensors", "someone/style", "a.safetensors", None),
        ("someone/style/qwen/v2/a.SAFETENSORS", "someone/style", "qwen/v2/a.SAFETENSORS", None),
        ("https://huggingface.co/someone/style", "someone/style", "", None),
        ("https://huggingface.co/someone/style/", "someone/style", "", None),
        ("https://huggingface.co/someone/style/tree/main", "someone/style", "", None),
        ("https://huggingface.co/someone/style/tree/main/qwen", "someone/style", "qwen", None),
        ("https://huggingface.co/someone/style/blob/main/a.safetensors", "someone/style", "a.safetensors", None),
        (
            "https://huggingface.co/someone/style/resolve/main/a%20b.safetensors?download=true",
            *("someone/style", "a b.safetensors", None),
        ),
        ("http://hf.co/someone/style/blob/v1/q/a.safetensors", "someone/style", "q/a.safetensors", "v1"),
    ],
)
def test_a_place_on_the_hub_is_understood_in_every_form(text, repository, file, revision):
    assert named_on_hub(text) == Named(repository=repository, file=file, revision=revision)


@pytest.mark.parametrize(
    "text",
    [
        *("style.safetensors", "./someone/style", "~/someone/style/a.safetensors", "/someone/style/a.safetensors"),
        *(
            "someone/style/a.bin",
            "someone/style/../a.safetensors",
            "someone\\style\\a.safetensors",
            "C:/l/a.safetensors",
        ),
        *("https://example.org/someone/style", "https://huggingface.co/someone", "https://huggingface.co/datasets/a/b"),
        *("https://huggingface.co/someone/style/discussions/1", "https://[huggingface.co/someone/style"),
        "https://huggingface.co/someone/style/blob/main/%2E%2E/a.safetensors",
    ],
)
def test_what_is_no_place_on_the_hub_is_none(text):
    assert named_on_hub(text) is None


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache of the Hub with one repository in it, and a LoRA in a folder of that; this machine is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--someone--style"
    snapshot = place / "snapshots" / ("c0ffee" * 6 + "c0ff")
    (snapshot / FILE).parent.mkdir(parents=True)
    save_file({"transformer.x.lora_A.weight": torch.zeros(1, 2)}, snapshot / FILE)
    for revision in ("main", "v1"):
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / revision).write_text(snapshot.name)
    return snapshot


@pytest.mark.parametrize(
    "text",
    [
        f"someone/style/{FILE}",
        "https://huggingface.co/someone/style/blob/main/qwen/a%20%5B2512%5D%20v2.safetensors",
        "https://huggingface.co/someone/style/resolve/v1/qwen/a%20%5B2512%5D%20v2.safetensors?download=true",
        "https://huggingface.co/someone/style/tree/main/qwen",
    ],
)
def test_a_lora_in_a_folder_of_a_repository_is_found(cached, text):
    assert locate(text) == cached / FILE


def test_a_file_that_the_repository_does_not_have_is_one_sentence(cached):
    with pytest.raises(ModelError, match=r"someone/style has no b\.safetensors, here or on the Hub; name one of its"):
        locate("someone/style/b.safetensors")


def test_a_mistyped_file_on_this_disk_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loras").mkdir()
    with pytest.raises(ModelError, match=r"There is no LoRA loras/style/a\.safetensors"):
        locate("loras/style/a.safetensors")
