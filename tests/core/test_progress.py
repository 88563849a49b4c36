"""How far slow things have come is told: weights that are read, once and again, and downloads (in test_network)."""

import itertools
import threading

import dit360_core as dit360
import pytest
import torch
from dit360_core.models.residency.placement import move
from dit360_core.system.progress import Progress, telling, underway


class Heard(list):
    """What was told, and whether it was in order."""

    def __call__(self, *told):
        self.append(told)

    def check(self, doing, total):
        assert {told[0] for told in self} == {doing}
        done = [told[1] for told in self]
        assert done == sorted(done)
        assert done[0] == 0
        assert done[-1] == total
        assert {told[2] for told in self} == {total}


def of_weights(folder):
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("options", [{}, {"quantization_mode": "int8", "quantization_parts": "both"}])
def test_reading_weights_is_told_up_to_their_last_byte(tiny_folder, options):
    heard = Heard()
    dit360.load(str(tiny_folder), progress=heard, **options)
    heard.check("Reading weights", of_weights(tiny_folder))


def test_it_is_told_as_weights_come_and_not_part_by_part(tiny_folder, monkeypatch):
    monkeypatch.setattr("dit360_core.system.progress.SELDOM", 0.0)
    heard = Heard()
    dit360.load(str(tiny_folder), progress=heard)
    heard.check("Reading weights", of_weights(tiny_folder))
    done = [told[1] for told in heard]
    largest = max(after - before for before, after in itertools.pairwise(done))
    assert largest < of_weights(tiny_folder) / 10


def test_what_is_evicted_is_told_of_when_it_is_read_again(tiny_folder):
    pipe = dit360.load(str(tiny_folder), evict="all")
    heard = Heard()
    with telling(heard):
        pipe.generate("a castle", width=64, steps=1)
    runs = [list(run) for _, run in itertools.groupby(heard, key=lambda told: told[2])]
    totals = {run[0][2] for run in runs}
    assert of_weights(tiny_folder / "transformer") in totals
    assert all(run[-1][1] == run[-1][2] for run in runs)


class Enough(Exception):
    pass


@pytest.mark.parametrize("error", [Enough, RuntimeError, OSError, KeyError])
def test_what_a_listener_raises_ends_the_loading_and_is_raised_as_it_is(tiny_folder, error):
    """Whatever the libraries raise of files that do not fit together."""
    raised = error("enough")

    def stop(doing, done, total):
        raise raised

    with pytest.raises(error) as found:
        dit360.load(str(tiny_folder), progress=stop)
    assert found.value is raised
    dit360.load(str(tiny_folder))  # nobody hears of what comes after


def test_what_must_be_done_to_its_end_is_and_what_was_raised_comes_then():
    done = []

    def stop(doing, count, total):
        raise Enough

    def moving():
        with underway("Moving", 10, ends=False) as progress:
            progress.advance(5)
            done.append("moved")
        done.append("went on")

    with pytest.raises(Enough), telling(stop):
        moving()
    assert done == ["moved", "went on"]


def test_who_listens_within_stops_nobody_who_listens_without():
    outer = Heard()

    def stop(doing, done, total):
        raise Enough

    with telling(outer):
        with pytest.raises(Enough), telling(stop), underway("Reading", 10):
            pass
        with underway("Reading", 20):
            pass
    outer.check("Reading", 20)


def test_nobody_is_told_more_than_there_is_and_the_end_is_told_once():
    heard = Heard()
    with telling(heard), underway("Reading", 1000) as progress:
        threads = [threading.Thread(target=lambda: [progress.advance(5) for _ in range(100)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    heard.check("Reading", 1000)
    assert [told[1] for told in heard].count(1000) == 1


def test_what_fails_is_not_told_as_done():
    heard = Heard()
    with pytest.raises(KeyError), telling(heard), underway("Reading", 10):
        {}["no such"]
    assert [told[1] for told in heard] == [0]


def test_nothing_is_told_of_nothing():
    heard = Heard()
    with telling(heard), telling(None):  # None leaves who heard before
        Progress("Reading", 0).advance(3)
        Progress("Reading", 7)
    assert heard == [("Reading", 0, 7)]


def test_moving_weights_is_told_block_by_block(monkeypatch):
    monkeypatch.setattr("dit360_core.system.progress.SELDOM", 0.0)
    blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(5))
    part = torch.nn.ModuleDict({"blocks": blocks, "out": torch.nn.Linear(8, 2)})
    part.register_buffer("scale", torch.ones(3))
    size = sum(tensor.nbytes for tensor in [*part.parameters(), *part.buffers()])
    heard = Heard()
    with telling(heard):
        move([part], torch.device("meta"))
        move([part], torch.device("meta"))  # everything is there: nothing is told
    heard.check("Moving weights to meta", size)
    assert len(heard) == 1 + len(blocks) + 2
    assert {tensor.device.type for tensor in [*part.parameters(), *part.buffers()]} == {"meta"}


def test_whoever_is_blamed_on_the_way_what_a_listener_raised_comes_out():
    def stop(doing, done, total):
        raise Enough

    def blaming():
        try:
            with underway("Reading", 10):
                pass
        except BaseException as error:
            raise RuntimeError("a plugin failed") from error

    with pytest.raises(Enough), telling(stop):
        blaming()


def test_an_interrupted_loading_stays_interrupted():
    def stop(doing, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), telling(stop), underway("Reading", 10):
        pass
