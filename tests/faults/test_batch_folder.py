"""A batch whose folder goes away, or whose manifest and pictures somebody has edited."""

import json
import shutil

import pytest
from dit360_core.batching import Batch
from dit360_core.batching.folder import MANIFEST, Folder
from dit360_core.batching.painting import identity
from dit360_core.errors import Dit360Error, InputError

OPTIONS = {"format": "png", "width": 64, "steps": 1}


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "list.txt").write_text("a castle\na lake\na sea\n")
    return tmp_path


def batch(desk):
    return Batch(desk / "list.txt", desk / "out", **OPTIONS)


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_folder_that_goes_away_ends_the_batch_and_is_not_made_anew(desk, comes_back):
    """comes_back: empty, as where a drive was mounted."""
    running = batch(desk).run()
    next(running)
    (desk / "out").rename(desk / "moved")
    if comes_back:
        (desk / "out").mkdir()
    with pytest.raises(Dit360Error, match="went away while pictures were made; bring it back"):
        list(running)
    assert (desk / "out").exists() == comes_back
    if comes_back:
        (desk / "out").rmdir()  # nothing is in it
    (desk / "moved").rename(desk / "out")
    again = batch(desk)
    assert len(again.done) == 1
    assert [outcome.status for outcome in again.run()] == ["done"] * 2
    damaged(desk)


def test_pictures_that_are_deleted_meanwhile_are_told_and_made_again(desk):
    running = batch(desk).run()
    next(running).file.unlink()
    with pytest.raises(Dit360Error, match=r"1 of 3 pictures that were made are no longer in .*makes them again"):
        list(running)
    said = [json.loads(line)["status"] for line in (desk / "out" / MANIFEST).read_text().splitlines()]
    assert said == ["pending", "done", "done"]
    assert len(batch(desk).missing) == 1


def damaged(desk):
    """A manifest with any nonsense in it is made anew from the pictures."""
    manifest = desk / "out" / MANIFEST
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for name, value in [("bytes", v) for v in ("1", None, [], float("inf"), 1e999, True, -1, {})] + [
        ("seconds", 1e999)
    ]:
        spoilt = [{**line, name: value} for line in lines] + [{"file": "x" * 5000, "key": "k", "status": "done"}]
        manifest.write_text("\n".join(json.dumps(line) for line in spoilt) + "\n")
        assert list(batch(desk).run()) == []
        made = [json.loads(line, parse_constant=pytest.fail) for line in manifest.read_text().splitlines()]
        if name == "bytes":
            assert [(line["file"], line["bytes"]) for line in made] == [(line["file"], line["bytes"]) for line in lines]
        assert [line["sha256"] for line in made] == [line["sha256"] for line in lines]


@pytest.mark.parametrize("used", ["text", 3, None, ["a"]])
def test_a_picture_that_does_not_say_how_it_was_made_is_one_sentence(desk, used):
    there = batch(desk)
    there._done = {"a.png": {"used": used}}
    with pytest.raises(InputError, match=r"a\.png does not say how it was made.*delete it"):
        there._check_same({"": {}})


def test_what_auto_decided_may_be_nonsense():
    assert identity({"decided": 3, "quantization": "int8"}) == {"precision": None, "quantization_mode": None}


def test_names_of_thousands_of_letters_are_one_sentence(desk):
    (desk / "list.jsonl").write_text(json.dumps({"prompt": "a", "image": "i" * 5000 + ".png"}))
    with pytest.raises(InputError, match="line 1: there is no file"):
        Batch(desk / "list.jsonl", desk / "out")
    for source, folder in (("l" * 5000, "out"), ("l" * 5000 + ".txt", "out"), ("list.txt", "o" * 5000)):
        with pytest.raises(InputError, match="Cannot"):
            Batch(desk / source, desk / folder)


def test_a_folder_in_a_folder_is_made_and_the_first_is_not(tmp_path):
    folder = Folder(tmp_path / "out")
    with folder.locked():
        assert folder.write("rooms/blue/a.png", b"a", force=False).read_bytes() == b"a"
        shutil.rmtree(tmp_path / "out")
        with pytest.raises(Dit360Error, match="went away"):
            folder.write("rooms/b.png", b"b", force=False)
    assert not (tmp_path / "out").exists()
