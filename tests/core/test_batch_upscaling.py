"""Lines of a list whose picture is made larger: of an image, or painted first."""

import json

import attrs
import numpy as np
import pytest
from command_line import dit360
from dit360_core.batching import Batch
from dit360_core.batching.in_process import InProcess
from dit360_core.batching.items import Batchwide, read_items
from dit360_core.errors import InputError
from dit360_core.options import LoadOptions
from dit360_core.panorama.formats import Saving
from dit360_core.panorama.picture import Panorama


@pytest.fixture(scope="module")
def small(tiny):
    return tiny.generate("a castle above a meadow at sunset", width=128, steps=2, seed=1)


def listed(path, *lines, **options):
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    common = Batchwide(folder=path.parent / "out", suffix=".png", loading=LoadOptions(), options=options)
    return read_items(path, common)


def test_pictures_are_made_larger_as_by_the_functions(tmp_path, tiny, small):
    small.save(tmp_path / "small.png")
    lines = [
        {"image": "small.png", "upscale": 256, "seed": 3, "steps": 2, "windows": "128x64", "name": "a.png"},
        {"prompt": "a calm sea", "upscale": 256, "width": 128, "seed": 4, "steps": 2, "windows": "128x64",
         "name": "b.png"},
    ]  # fmt: skip
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    outcomes = list(Batch(tmp_path / "list.jsonl", tmp_path / "out", model="tiny").run())
    assert [(outcome.status, outcome.error) for outcome in outcomes] == [("done", None)] * 2
    asked = {"to": 256, "windows": "128x64"}
    first = tiny.upscale(Panorama.open(tmp_path / "small.png"), seed=3, steps=2, **asked)
    sea = tiny.generate("a calm sea", width=128, steps=2, seed=4)
    second = tiny.upscale(sea, seed=4, steps=4, **asked)
    for name, wanted in (("a.png", first), ("b.png", second)):
        made = Panorama.open(tmp_path / "out" / name)
        assert made.size == (256, 128)
        assert np.array_equal(np.asarray(made.image), np.asarray(wanted.image)), name
    # The prompt of the first was taken from the picture, and nothing is left of what was kept meanwhile.
    assert outcomes[0].prompt == small.settings["prompt"]
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.png", "b.png", "manifest.jsonl"]
    again = list(Batch(tmp_path / "list.jsonl", tmp_path / "out", model="tiny").run())
    assert again == []


def test_by_the_command_line_a_larger_picture_has_its_own_defaults_and_any_value_that_is_said(tmp_path, small):
    small.save(tmp_path / "small.png")
    shown = {"image": "small.png", "upscale": 256, "seed": 3, "steps": 1}
    lines = [
        {**shown, "name": "usual.png"},
        {**shown, "windows": "never", "cube_consistency": 0.0, "name": "said.png"},
        {"prompt": "a sea", "width": 128, "steps": 1, "seed": 1, "name": "sea.png"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (tmp_path / "list.csv").write_text("image,upscale,steps,seed,name\nsmall.png,256,1,3,usual.png\n")
    whole, table, shared = dit360(
        ["batch", "list.jsonl", "-o", "out"], ["batch", "list.csv", "-o", "csv"],
        # Of the sea, which begins with no picture, nothing is kept.
        ["batch", "list.jsonl", "-o", "shared", "--denoise", "0.5", "--dry-run"],
        cwd=tmp_path,
    )  # fmt: skip
    assert [one.code for one in (whole, table, shared)] == [0, 0, 0], (whole.err, table.err, shared.err)
    usual, said, sea = (Panorama.open(tmp_path / "out" / line["name"]).settings for line in lines)
    assert usual["requested"]["denoise"] == 0.35
    assert usual["requested"]["cube_consistency"] == 1.0
    assert usual["requested"]["windows"] == "auto"
    assert "windows" not in said["requested"]
    assert said["requested"]["cube_consistency"] == said["used"]["cube_consistency"] == 0.0
    assert "denoise" not in sea["requested"]
    made = [np.asarray(Panorama.open(tmp_path / where / "usual.png").image) for where in ("out", "csv")]
    assert np.array_equal(*made)


def test_what_was_computed_of_a_larger_picture_is_kept_while_it_is_made(tmp_path, tiny, small):
    small.save(tmp_path / "small.png")
    (item,) = listed(
        tmp_path / "list.jsonl",
        {"image": "small.png", "upscale": 256, "seed": 3, "steps": 3, "windows": "128x64", "name": "rooms/a.png"},
    )
    folder = tmp_path / "out"

    class Stopped(BaseException):
        pass

    def stop(item, done, steps):
        if done == 2:
            raise Stopped

    def engine(advance):
        made = InProcess(LoadOptions(), saving=Saving(), advance=advance, folder=folder)
        assert made.check([item]) == []
        made.load()
        return made

    with pytest.raises(Stopped):
        list(engine(stop).paint([item]))
    (state,) = (folder / "rooms").iterdir()
    assert state.name == f"a.png.{item.key[:12]}.state"
    kept = state.stat().st_size
    seen = []
    (done,) = engine(lambda item, done, steps: seen.append(done)).paint([item])
    assert kept > 0
    assert done.data is not None
    assert state.exists()  # whoever saves the picture removes it
    (whole,) = InProcessOnce(item).painted
    assert done.data == whole.data


class InProcessOnce:
    """The same picture without a folder, made in one go."""

    def __init__(self, item):
        engine = InProcess(LoadOptions(), saving=Saving())
        engine.check([item])
        engine.load()
        self.painted = list(engine.paint([item]))


def test_what_is_made_larger_tells_a_picture_from_others(tmp_path, small):
    small.save(tmp_path / "small.png")
    image = {"image": "small.png", "seed": 1, "denoise": 0.35}
    lines = [image | {"prompt": "a sea", "upscale": 256}, image | {"prompt": "a sea", "upscale": 512},
             {"prompt": "a sea", "seed": 1, "upscale": 512},
             {"prompt": "a sea", "seed": 1, "upscale": 512, "steps": 5},
             {"prompt": "a sea", "seed": 1, "upscale": 512, "steps": 5, "denoise": 0.5},
             {"prompt": "a sea", "seed": 1, "width": 512}]  # fmt: skip
    items = listed(tmp_path / "list.jsonl", *lines)
    assert len({item.key for item in items}) == len(lines)
    assert [item.larger for item in items] == [True, True, True, True, True, False]
    assert items[2].first is not None
    assert items[2].first.seed == items[2].sampling.seed == 1
    # Of the picture that is painted first all is made anew, whatever is kept of it in the larger one.
    assert items[4].first.denoise == 1.0
    assert (items[4].sampling.denoise, items[4].sampling.steps) == (0.5, 4)
    assert attrs.evolve(items[2].sampling, width=None).windows == "auto"


def test_a_list_says_whether_what_a_picture_shows_stays(tmp_path, small):
    small.save(tmp_path / "small.png")
    line = {"image": "small.png", "upscale": 256, "seed": 3, "steps": 2, "windows": "128x64"}
    lines = [{**line, "name": "a.png", "faithful": "never"}, {"prompt": "a sea", "name": "b.png"}]
    free, other = listed(tmp_path / "list.jsonl", *lines, faithful="always")
    assert (free.enlarging.faithful, other.enlarging.faithful) == ("never", "auto")
    (kept,) = listed(tmp_path / "list.jsonl", {**line, "name": "a.png"})
    assert kept.key != free.key
    (painted,) = InProcessOnce(free).painted
    (tmp_path / "made.png").write_bytes(painted.data)
    assert Panorama.open(tmp_path / "made.png").settings["used"]["faithful"] is False
    # For all, as the command line gives it.
    (tmp_path / "more.jsonl").write_text(json.dumps({**line, "name": "c.png"}))
    (outcome,) = Batch(tmp_path / "more.jsonl", tmp_path / "out", model="tiny", faithful="never").run()
    assert outcome.status == "done"
    assert Panorama.open(tmp_path / "out" / "c.png").settings["requested"]["faithful"] == "never"
    with pytest.raises(InputError, match=r"line 1: .*faithful.* has no effect without .*upscale"):
        listed(tmp_path / "list.jsonl", {"prompt": "a sea", "faithful": "never"})


def test_a_width_for_all_pictures_is_left_out_where_the_line_says_another(tmp_path, small):
    small.save(tmp_path / "small.png")
    (item,) = listed(tmp_path / "list.jsonl", {"image": "small.png", "upscale": 256}, width=512)
    assert item.sampling.width == 256


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"image": "small.png", "upscale": 128}, "upscale is 128, and the picture is 128 wide already"),
        ({"image": "small.png", "upscale": 200}, "upscale is 200, but must be a multiple of 32; take 192"),
        ({"image": "small.png", "upscale": 20000}, "multiple of 32|at most 16384"),
        ({"image": "small.png", "upscale": "large"}, "upscale is 'large', but must be a width in pixels"),
        ({"image": "small.png", "upscale": True}, "upscale is True, but must be a width in pixels"),
        ({"image": "small.png", "upscale": 256, "width": 512}, "width has no effect beside upscale"),
        ({"image": "small.png", "upscale": 256, "denoise": 1}, "keeps nothing of the image"),
        ({"image": "plain.png", "upscale": 256}, "does not say what it shows; give the line a prompt"),
        ({"image": "none.png", "upscale": 256}, "there is no file"),
        ({"upscale": 256}, "it has no prompt"),
    ],
)
def test_what_cannot_be_made_larger_is_told_with_its_line(tmp_path, small, line, said):
    small.save(tmp_path / "small.png")
    small.image.save(tmp_path / "plain.png")
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    with pytest.raises(InputError, match=f"line 1: .*({said})"):
        Batch(tmp_path / "list.jsonl", tmp_path / "out", model="tiny")


def test_a_larger_picture_that_is_not_larger_than_what_is_painted_is_told_before_weights_are_read(tmp_path):
    (tmp_path / "list.jsonl").write_text(json.dumps({"prompt": "a sea", "upscale": 512}))
    with pytest.raises(InputError, match="line 1: upscale is 512, and the picture is 512 wide already"):
        list(Batch(tmp_path / "list.jsonl", tmp_path / "out", model="tiny").run())


def test_what_the_file_of_a_line_cannot_hold_fails_that_line_alone(tmp_path):
    lines = [{"prompt": "a sea", "width": 128, "upscale": 16384, "steps": 1, "name": "a.webp"}]
    (item,) = listed(tmp_path / "list.jsonl", *lines)
    ((wrong, why),) = InProcess(LoadOptions(), saving=Saving()).check([item])
    assert wrong is item
    assert "WEBP holds at most 16383 pixels a side, but the picture is 16384 wide" in why


def test_the_state_is_there_until_the_picture_is_saved(tmp_path, small):
    small.save(tmp_path / "small.png")
    line = {
        "image": "small.png",
        "upscale": 256,
        "seed": 3,
        "steps": 2,
        "windows": "128x64",
        "name": f"{'a' * 245}.png",
    }
    (item,) = listed(tmp_path / "list.jsonl", line)
    engine = InProcess(LoadOptions(), saving=Saving(), folder=tmp_path / "out")
    assert engine.check([item]) == []
    engine.load()
    pictures = engine.paint([item])
    assert next(pictures).error is None
    (state,) = (tmp_path / "out").iterdir()
    assert state.name == f"{item.key}.state"  # the picture's own name leaves no room
    assert list(pictures) == []
    assert state.exists()  # whoever saves the picture removes it
