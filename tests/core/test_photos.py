"""Photos: what their files say of the camera, and what is wrong with them."""

import math

import pytest
from dit360_core.errors import InputError
from dit360_core.options import PhotoOptions
from dit360_core.panorama.photos import Photo, parsed
from dit360_core.pipeline.editing.overlap import check_new
from PIL import Image
from PIL.ExifTags import IFD, Base

GPANO = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {}/></rdf:RDF></x:xmpmeta>'
)
PART = {
    "ProjectionType": "equirectangular",
    "FullPanoWidthPixels": 512,
    "FullPanoHeightPixels": 256,
    "CroppedAreaImageWidthPixels": 200,
    "CroppedAreaImageHeightPixels": 80,
    "CroppedAreaLeftPixels": 400,
    "CroppedAreaTopPixels": 60,
}


def saved(folder, size=(300, 200), *, focal=None, orientation=None, gpano=None):
    exif = Image.Exif()
    if focal is not None:
        exif.get_ifd(IFD.Exif)[Base.FocalLengthIn35mmFilm] = focal
    if orientation is not None:
        exif[Base.Orientation] = orientation
    xmp = b""
    if gpano is not None:
        xmp = GPANO.format(" ".join(f'GPano:{key}="{value}"' for key, value in gpano.items())).encode()
    path = folder / "photo.jpg"
    Image.effect_noise(size, 60).convert("RGB").save(path, exif=exif, **({"xmp": xmp} if xmp else {}))
    return path


@pytest.mark.parametrize(("focal", "fov"), [(18, 90.0), (26, 69.39), (50, 39.6), (13, 108.32)])
def test_the_lens_tells_the_field_of_view_of_a_3_to_2_photo(tmp_path, focal, fov):
    """2·atan(18/f) over the longer side."""
    photo = Photo.open(saved(tmp_path, focal=focal))
    assert photo.fov == pytest.approx(fov, abs=0.01)
    assert photo.camera.pixel == pytest.approx(36 / focal / 300)


def test_a_photo_of_another_shape_has_the_lens_diagonal(tmp_path):
    """4:3, as phones: the diagonal is 43.27 mm on film, its longer side four fifths of that."""
    photo = Photo.open(saved(tmp_path, size=(400, 300), focal=26))
    assert photo.fov == pytest.approx(math.degrees(2 * math.atan(0.8 * 43.2666 / 2 / 26)), abs=0.01)


@pytest.mark.parametrize(("orientation", "size"), [(1, (300, 200)), (3, (300, 200)), (6, (200, 300)), (8, (200, 300))])
def test_a_photo_stands_upright(tmp_path, orientation, size):
    """And the field of view is over its longer side, whichever that is."""
    photo = Photo.open(saved(tmp_path, focal=18, orientation=orientation))
    assert (photo.image.size, photo.camera.width) == (size, size[0])
    assert photo.fov == pytest.approx(90)
    with Image.open(tmp_path / "photo.jpg") as image:
        image.load()
        assert Photo(image).image.size == size
        assert Photo(image).fov == pytest.approx(90)


def test_a_field_of_view_that_is_given_goes_before_the_lens(tmp_path):
    assert Photo.open(saved(tmp_path, focal=18), fov=40).fov == 40


def test_without_a_lens_the_sentence_names_usual_values(tmp_path):
    with pytest.raises(InputError, match=r"field of view of photo.jpg is not known.*65 degrees.*most phones"):
        Photo.open(saved(tmp_path))
    with pytest.raises(InputError, match="field of view of the photo is not known"):
        Photo(Image.new("RGB", (30, 20)))


@pytest.mark.parametrize("focal", [0, 65535])
def test_a_lens_that_is_none_is_not_known(tmp_path, focal):
    """0 is EXIF's word for unknown; a lens of 65 metres is none."""
    with pytest.raises(InputError, match="is not known"):
        Photo.open(saved(tmp_path, focal=focal))


@pytest.mark.parametrize("fov", [0, 180, 200, -5, math.nan, math.inf, "60", True])
def test_a_field_of_view_that_is_none_is_one_sentence(fov):
    with pytest.raises(InputError, match="but must be"):
        Photo(Image.new("RGB", (30, 20)), fov=fov)


@pytest.mark.parametrize("angle", ["yaw", "pitch", "roll"])
def test_an_angle_that_is_none_is_one_sentence(angle):
    with pytest.raises(InputError, match="nan"):
        Photo(Image.new("RGB", (30, 20)), fov=60, **{angle: math.nan})
    with pytest.raises(InputError, match="must be a number of degrees"):
        Photo(Image.new("RGB", (30, 20)), fov=60, **{angle: "90"})


def test_a_part_of_a_panorama_lies_where_its_metadata_say(tmp_path):
    photo = Photo.open(saved(tmp_path, size=(200, 80), gpano=PART))
    assert photo.as_dict()["of"] == [512, 256]
    assert photo.as_dict()["area"]["left"] == 400


def test_angles_for_a_part_of_a_panorama_contradict(tmp_path):
    with pytest.raises(InputError, match="lies where its GPano metadata say"):
        Photo.open(saved(tmp_path, size=(200, 80), gpano=PART), yaw=90)


def test_a_part_of_a_panorama_knows_that_panoramas_direction(tmp_path):
    assert Photo.open(saved(tmp_path, size=(200, 80), gpano={**PART, "PoseHeadingDegrees": 120})).pose.heading == 120


def test_a_part_of_a_panorama_of_too_many_pixels_is_refused(tmp_path):
    huge = {**PART, "FullPanoWidthPixels": 400_000, "FullPanoHeightPixels": 200_000}
    with pytest.raises(InputError, match=r"photo.jpg: it is a part of a panorama that has .*DIT360_MAX_PIXELS"):
        Photo.open(saved(tmp_path, size=(200, 80), gpano=huge))


def test_a_part_of_another_projection_is_told_with_its_file_and_the_remedy(tmp_path):
    with pytest.raises(
        InputError, match=r"Cannot open .*photo.jpg as a part .* 'cylindrical', .* remove its GPano meta"
    ):
        Photo.open(saved(tmp_path, size=(200, 80), gpano={**PART, "ProjectionType": "cylindrical"}))


def test_a_photo_of_16_bits_is_refused():
    with pytest.raises(InputError, match="over 8 bits a channel"):
        Photo(Image.new("I;16", (30, 20), 20000), fov=60)


def test_a_whole_panorama_is_no_photo(tmp_path):
    whole = {"ProjectionType": "equirectangular", "FullPanoWidthPixels": 512, "FullPanoHeightPixels": 256}
    with pytest.raises(InputError, match="is a whole panorama, and leaves nothing"):
        Photo.open(saved(tmp_path, size=(512, 256), gpano=whole))


def test_what_stands_behind_a_files_name():
    common = PhotoOptions(fov=70, yaw=10)
    assert parsed("a b.jpg", common) == {"path": "a b.jpg", "fov": 70, "yaw": 10, "pitch": 0, "roll": 0}
    assert parsed("a.jpg; fov=60 ;yaw=-90.5", common) == {
        "path": "a.jpg", "fov": 60, "yaw": -90.5, "pitch": 0, "roll": 0,
    }  # fmt: skip


WRONG = {
    "a.jpg;fo=60": "says 'fo=60', but may say fov",
    "a.jpg;fov": "says 'fov', but may say",
    "a.jpg;fov=wide": "fov of the photo a.jpg is 'wide'",
    "a.jpg;fov=": "fov of the photo a.jpg is ''",
    "a.jpg;yaw=nan": "must be a finite number",
    "a.jpg;fov=400": "must be",
    ";fov=60": "names no file",
    "a.jpg;fov=60;fov=70": "says fov twice",
    "a.jpg;": "says '', but may say",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_stands_there_and_cannot_be_read_is_one_sentence(text):
    with pytest.raises(InputError, match=WRONG[text]):
        parsed(text, PhotoOptions())


def photo(fov, yaw=0.0, pitch=0.0, roll=0.0, size=(30, 20)):
    return Photo(Image.new("RGB", size), fov=fov, yaw=yaw, pitch=pitch, roll=roll)


@pytest.mark.parametrize(
    "photos",
    [
        [photo(60), photo(60)],
        [photo(100), photo(40, yaw=10, roll=30)],
        [photo(100, yaw=180), photo(40, yaw=-170, pitch=5)],
        [photo(120, pitch=90), photo(50, pitch=80, yaw=123)],
        [photo(90, size=(20, 20)), photo(90, yaw=90, size=(20, 20)), photo(30, yaw=45, pitch=0)],
        [photo(60), photo(60, yaw=360)],
    ],
)
def test_a_photo_that_shows_nothing_new_is_refused(photos):
    with pytest.raises(InputError, match="shows nothing new"):
        check_new(photos)


@pytest.mark.parametrize(
    "photos",
    [
        [photo(60), photo(62)],
        [photo(60), photo(60, yaw=5)],
        [photo(40), photo(100)],
        [photo(60), photo(60, roll=20)],
        [photo(60)],
        [],
    ],
)
def test_photos_that_show_something_new_may_overlap(photos):
    check_new(photos)


def test_parts_of_panoramas_are_compared_too(tmp_path):
    part = Photo.open(saved(tmp_path, size=(200, 80), gpano=PART))
    middle = (400 + 100) / 512 * 360 - 180
    inside = photo(20, yaw=middle, pitch=90 - 100 / 256 * 180)
    with pytest.raises(InputError, match="shows nothing new"):
        check_new([part, inside])
    with pytest.raises(InputError, match="shows nothing new"):
        check_new([part, part])
    check_new([inside, part])
    check_new([part, photo(20, yaw=middle + 180)])
