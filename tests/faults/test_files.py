"""A disk that is full, a folder that may not be written to, two programs that write one name: nothing is lost by it."""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command_line import Told, dit360, environment, python
from dit360_core.errors import InputError
from dit360_core.panorama.picture import Panorama, check_save
from dit360_core.system.atomic import NameTaken, check_new_folder, write_atomic
from PIL import Image

SMALL = ["--width", "64", "--steps", "1"]
WIDE = ["--width", "512", "--steps", "1", "--seed", "1"]
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits, devices and permissions")


def below(folder):
    """Every file and folder in a folder, hidden ones too, with what is in the files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
        if not path.is_symlink()
    }


_TELLING = """
import json, sys
sys.path.insert(0, sys.argv[1])
import attrs
from command_line import dit360
asked = json.load(sys.stdin)
told = dit360(*asked["commands"], cwd=".", fresh=True, **asked["environ"])
json.dump([attrs.asdict(one) for one in told], sys.stdout)
"""


def told_under(prefix, *commands, cwd, **environ):
    """Command lines in a process that is started by another program (``setpriv``)."""
    asked = {"commands": [[str(word) for word in command] for command in commands], "environ": environ}
    done = subprocess.run(
        [*prefix, sys.executable, "-c", _TELLING, str(Path(__file__).parents[1])],
        input=json.dumps(asked, default=str), capture_output=True, text=True, encoding="utf-8", cwd=cwd, timeout=300,
        check=False, env=environment(PYTHONIOENCODING="utf-8"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Told(**told) for told in json.loads(done.stdout)]


def assert_one_sentence(told, *parts):
    assert told.code == 2, told
    assert told.err.startswith("Error: "), told.err
    assert told.err.count("\n") == 1, told.err
    at = 0
    for part in parts:
        assert part in told.err[at:], (part, told.err)
        at = told.err.index(part, at)


# ------------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A picture of 2 MB."""
    file = tmp_path_factory.mktemp("big") / "big.png"
    Panorama(image=Image.effect_noise((1200, 600), 90).convert("RGB"), settings={"prompt": "noise"}).save(file)
    return file


# As 'unshare --mount --map-root-user' and 'mount' do it, so that this can be a fork of a process that has PyTorch. What
# is on the disk is copied at the end, since nobody else sees it.
_SMALL_DISK = """
import atexit, ctypes, os, pathlib, shutil, subprocess
user, group = os.getuid(), os.getgid()
if ctypes.CDLL(None, use_errno=True).unshare(0x00020000 | 0x10000000):  # CLONE_NEWNS, CLONE_NEWUSER
    raise OSError(ctypes.get_errno(), "unshare fails")
for file, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
    pathlib.Path("/proc/self", file).write_text(text)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "disk"], check=True)
pathlib.Path("disk/old.png").write_bytes(b"mine")
atexit.register(shutil.copytree, os.path.abspath("disk"), os.path.abspath("after"), dirs_exist_ok=True)
"""


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory, big):
    """What commands told that wrote to a disk of 16 KiB, and what was on it afterwards."""
    desk = tmp_path_factory.mktemp("desk")
    for name in ("disk", "spare", "after"):
        (desk / name).mkdir()
    tried = python(_SMALL_DISK, cwd=desk)
    if tried.returncode:
        pytest.skip(f"no small disk can be mounted here: {tried.stderr.splitlines()[-1]}")
    commands = {
        "a new picture": ["generate", "a castle", "-o", "disk/new.png", *WIDE],
        "a picture that is replaced": [
            "generate", "a castle", "-o", "disk/old.png", "--force", *WIDE
        ],
        "a page to look around in": ["view", big, "-o", "disk/page.html"],
        "a quantized model": ["quantize", "tiny", "-o", "disk/model", "--mode", "int8"],
        "a timeline": ["generate", "a castle", "-o", "spare.png", *SMALL, "--profile", "disk/time.html"],
    }  # fmt: skip
    told = dit360(*commands.values(), cwd=desk, before=_SMALL_DISK, TMPDIR=desk / "spare")
    return desk, dict(zip(commands, told, strict=True))


@posix
@pytest.mark.parametrize(
    ("what", "name"),
    [("a page to look around in", "page.html"), ("a quantized model", "model"), ("a timeline", "time.html")],
)
def test_a_full_disk_is_one_sentence(small_disk, what, name):
    _, told = small_disk
    if what == "a timeline" and told[what].code == 0:
        pytest.fail("the disk was large enough for the timeline")
    assert "Traceback" not in told[what].err
    last = told[what].err.splitlines()[-1]
    assert told[what].code == 2
    assert last.startswith(f"Error: Cannot write disk/{name}: No space left on device; see that there is space, or")
    assert last.endswith(".")


@posix
@pytest.mark.parametrize("what", ["a new picture", "a picture that is replaced"])
def test_a_picture_that_the_disk_has_no_room_for_is_kept_elsewhere(small_disk, what):
    desk, told = small_disk
    name = {"a new picture": "new.png", "a picture that is replaced": "old.png"}[what]
    assert_one_sentence(
        told[what], f"Cannot write disk/{name}: No space left on device", "the picture is not lost, it is"
    )
    kept = Path(told[what].err.strip().rpartition(" it is ")[2].removesuffix("."))
    assert kept.is_relative_to(desk / "spare")
    assert Panorama.open(kept).settings["prompt"] == "a castle"


@posix
def test_a_full_disk_keeps_what_was_on_it_and_gets_nothing_half_written(small_disk):
    desk, _ = small_disk
    assert below(desk / "after") == {"old.png": b"mine"}
    assert sorted(path.name for path in desk.iterdir()) == ["after", "disk", "spare", "spare.png"]


@posix
def test_where_nothing_can_be_written_at_all_the_picture_is_given_up_in_one_sentence(tmp_path, big):
    (tmp_path / "old.png").write_bytes(b"mine")
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from dit360_core.errors import Dit360Error\n"
        "from dit360_core.panorama.picture import Panorama, rescue\n"
        "panorama = Panorama.open(sys.stdin.read())\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14))\n"
        "for name, force in (('new.png', False), ('old.png', True)):\n"
        "    try: panorama.save(name, force=force)\n"
        "    except Dit360Error as error: print(error, rescue(panorama, Path(name)))\n"
    )
    said = python(code, cwd=tmp_path, given=str(big), TMPDIR=tmp_path)
    assert said.stdout.splitlines() == [
        f"Cannot write {name}: File too large; see that there is space, or choose another place. None"
        for name in ("new.png", "old.png")
    ], said.stderr
    assert {name: data for name, data in below(tmp_path).items() if data is not None} == {"old.png": b"mine"}


# -------------------------------------------------------------------------------- folders that may not be written to


@pytest.fixture(scope="module")
def locked(tmp_path_factory, big):
    """What commands told that were to write into a folder without the right to, be it as root without its rights."""
    desk = tmp_path_factory.mktemp("locked")
    (desk / "closed").mkdir()
    (desk / "closed" / "old.png").write_bytes(b"mine")
    shutil.copy(big, desk / "secret.png")
    (desk / "secret.png").chmod(0)
    (desk / "closed").chmod(0o555)
    prefix = []
    if os.geteuid() == 0:
        prefix = [
            "setpriv",
            "--bounding-set=-dac_override,-dac_read_search",
            "--inh-caps=-dac_override,-dac_read_search",
        ]
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and setpriv is not there to take that right away")
    commands = {
        "a picture": ["generate", "a castle", "-o", "closed/new.png", *SMALL],
        "a picture that is replaced": ["generate", "a castle", "-o", "closed/old.png", "--force", *SMALL],
        "a page to look around in": ["view", big, "-o", "closed/page.html"],
        "a quantized model": ["quantize", "tiny", "-o", "closed/model", "--mode", "int8"],
        "a timeline": ["generate", "a castle", "-o", "new.png", *SMALL, "--profile", "closed/time.html"],
        "a picture that may not be read": ["inspect", "secret.png"],
    }
    told = told_under(prefix, *commands.values(), cwd=desk)
    (desk / "closed").chmod(0o755)
    return desk, dict(zip(commands, told, strict=True))


_NO = "no permission to write in closed; choose another folder."
NO_PERMISSION = {
    "a picture": f"Cannot write closed/new.png: {_NO}",
    "a picture that is replaced": f"Cannot write closed/old.png: {_NO}",
    "a page to look around in": f"Cannot write closed/page.html: {_NO}",
    "a quantized model": "Cannot write closed/model: no permission to write there; choose another folder.",
    "a timeline": f"Cannot write closed/time.html: {_NO}",
}


@posix
@pytest.mark.parametrize(("what", "sentence"), NO_PERMISSION.items(), ids=NO_PERMISSION)
def test_a_folder_without_permission_is_one_sentence_before_anything_is_computed(locked, what, sentence):
    _, told = locked
    assert_one_sentence(told[what], sentence)


@posix
def test_a_picture_that_may_not_be_read_is_told(locked):
    told = locked[1]["a picture that may not be read"]
    assert told.code == 2
    assert "secret.png" in told.err
    assert "not readable" in told.err


@posix
def test_a_folder_without_permission_is_left_as_it_was(locked):
    desk, _ = locked
    assert below(desk / "closed") == {"old.png": b"mine"}
    assert sorted(path.name for path in desk.iterdir()) == ["closed", "secret.png"]


@posix
def test_a_name_that_leads_to_a_device_a_pipe_or_in_a_circle_is_refused_or_replaced_by_itself(tmp_path):
    device = tmp_path / "device.png"
    device.symlink_to("/dev/full")
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path in (device, pipe):
        with (
            pytest.raises(InputError, match="it is a device or a pipe, and no file; choose another name"),
            write_atomic(path, force=True),
        ):
            raise AssertionError
    circle = tmp_path / "circle.png"
    circle.symlink_to("circle.png")
    with write_atomic(circle, force=True) as file:
        file.write(b"new")
    assert circle.read_bytes() == b"new"
    assert not circle.is_symlink()
    assert Path("/dev/full").is_char_device()


@posix
def test_a_link_into_a_folder_that_is_not_there_is_refused_before_anything_is_computed(tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to("nowhere/a.png")
    for force in (True, False):
        with pytest.raises(InputError, match=r"it is a link, and the folder .*nowhere does not exist; create it"):
            check_save(link, force=force)
    assert link.is_symlink()
    (tmp_path / "nowhere").mkdir()
    check_save(link, force=True)
    with write_atomic(link, force=True) as file:
        file.write(b"new")
    assert (tmp_path / "nowhere" / "a.png").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["x\0.png", "x\ud800.png", "x" * 300 + ".png"])
def test_a_name_that_no_file_can_have_is_one_sentence_before_anything_is_computed(tmp_path, name):
    panorama = Panorama(image=Image.new("RGB", (8, 4)))
    for refuse in (check_save, panorama.save, lambda path: check_new_folder(path.with_suffix(""))):
        with pytest.raises(InputError, match=r"^Cannot write [^\n]*; choose another name\.$"):
            refuse(tmp_path / name)
    assert below(tmp_path) == {}


# ----------------------------------------------------------------------------------------- two programs and one name

RACING = """
import contextlib, io, json, sys, time
from pathlib import Path
from dit360_core.panorama import picture as panorama
from dit360_core.pipeline import quantizing as storing
from dit360_core.cli import main

me, commands = json.load(sys.stdin)

def both_first(module, name):
    # A program goes on only when the other one has found the name free, too.
    looked = getattr(module, name)
    def look(*given, **more):
        found = looked(*given, **more)
        Path(f"{me}.{name}").touch()
        while not all(Path(f"{who}.{name}").exists() for who in "ab"):
            time.sleep(0.005)
        return found
    setattr(module, name, look)

both_first(panorama, "check_save")
both_first(storing, "check_target")
told = []
for command in commands:
    sys.argv, out, err, code = ["dit360", *command], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    told.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """Two processes that each write the same picture and the same model; the winner and the loser of each."""
    desk = tmp_path_factory.mktemp("raced")
    model = ["quantize", "tiny", "-o", "model", "--mode", "int8", "--parts", "t5"]
    asked = {
        me: [["generate", prompt, "-o", "same.png", *SMALL], model]
        for me, prompt in (("a", "a castle"), ("b", "a desert"))
    }
    with ThreadPoolExecutor() as threads:
        running = [
            threads.submit(python, RACING, cwd=desk, given=json.dumps([me, commands])) for me, commands in asked.items()
        ]
    said = [process.result().stdout for process in running]
    for mark in desk.glob("?.check_*"):
        mark.unlink()
    told = [[Told(**one) for one in json.loads(text)] for text in said]
    return desk, [sorted(pair, key=lambda one: one.code) for pair in zip(*told, strict=True)]


def test_of_two_programs_that_write_one_picture_neither_loses_it(raced):
    desk, [[winner, loser], _] = raced
    assert winner.code == 0, winner
    assert_one_sentence(
        loser, "Cannot write same.png: the file exists already", "; the picture is not lost, it is same-2.png."
    )
    prompts = {Panorama.open(desk / name).settings["prompt"] for name in ("same.png", "same-2.png")}
    assert prompts == {"a castle", "a desert"}


def test_of_two_programs_that_store_one_model_neither_loses_it(raced):
    desk, [_, [winner, loser]] = raced
    assert winner.code == 0, winner
    assert_one_sentence(
        loser, "Cannot write model: another program has made it meanwhile; this one is not lost, it is model-2."
    )
    one, two = below(desk / "model"), below(desk / "model-2")
    assert one == two
    assert "text_encoder_2/quantization.json" in one


def test_of_two_programs_nothing_half_written_is_left(raced):
    desk, _ = raced
    assert sorted(path.name for path in desk.iterdir()) == ["model", "model-2", "same-2.png", "same.png"]


def test_of_many_threads_that_write_one_name_exactly_one_gets_it_whole(tmp_path):
    ready = threading.Barrier(8)
    got = []

    def write(number):
        try:
            with write_atomic(tmp_path / "same") as file:
                file.write(bytes([number]) * 100_000)
                ready.wait(30)
            got.append(number)
        except NameTaken:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert below(tmp_path) == {"same": bytes([got[0]]) * 100_000}


@posix
def test_without_hard_links_a_name_is_given_only_once_too(tmp_path):
    """As on FAT: the system itself is made to refuse links to this process."""
    code = (
        "import os, errno\n"
        "def refused(*_, **__): raise PermissionError(errno.EPERM, 'Operation not permitted')\n"
        "os.link = refused\n"
        "from pathlib import Path\n"
        "from dit360_core.system.atomic import NameTaken, write_atomic\n"
        "with write_atomic(Path('new')) as file: file.write(b'new')\n"
        "try:\n"
        "    with write_atomic(Path('late')) as file:\n"
        "        file.write(b'late')\n"
        "        Path('late').write_bytes(b'mine')\n"
        "except NameTaken as error: print(error)\n"
    )
    done = python(code, cwd=tmp_path)
    assert done.stdout == "Cannot write late: the file exists already; choose another name or overwrite it (force).\n"
    assert below(tmp_path) == {"late": b"mine", "new": b"new"}
