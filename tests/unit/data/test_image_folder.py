"""Folders of pictures: files used, notes on the others, refusals in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.commands import run
from tests.support.picture_files import write_png, write_tiff

from p2pfl.cli.describe import describe_run
from p2pfl.config import PictureOptions, RunConfig, check_together, replace_options
from p2pfl.data import Dataset, describe, load, prepare
from p2pfl.data.image_listing import list_folder
from p2pfl.errors import ConfigError
from p2pfl.modes import topology_of

RAMP = np.linspace(0, 65535, 1024).round().astype(np.uint16).reshape(32, 32)


def silent(what: str, done: int, total: int) -> None:
    """No progress is shown."""


def draw(path: Path, value: int = 100, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (32, 32), value if mode in "L" else (value,) * len(mode)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for value, name in ((10, "cat"), (200, "dog")):
            draw(tmp_path / "images" / split / name / "0.png", value)
    return tmp_path / "images"


def made(folder: Path, pictures: PictureOptions | None = None) -> Dataset:
    options = pictures or PictureOptions()
    return load(prepare(f"imagefolder:{folder}", folder.parent / "cache", silent, options))


def notes(folder: Path, pictures: PictureOptions | None = None) -> str:
    """Notes on a folder before and after decoding."""
    options = pictures or PictureOptions()
    before = describe(f"imagefolder:{folder}", folder.parent / "cache", options)
    made(folder, options)
    after = describe(f"imagefolder:{folder}", folder.parent / "cache", options)
    assert set(before.notes) <= set(after.notes)
    return "\n".join(after.notes)


def refusal(folder: Path, pictures: PictureOptions | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(f"imagefolder:{folder}", folder.parent / "cache", silent, pictures or PictureOptions())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    train, test, _ = list_folder(folder)
    return [os.path.relpath(path, folder) for path, _ in (*train.samples, *test.samples)]


def test_every_kind_of_picture_is_used_and_every_other_file_is_named(folder: Path) -> None:
    whole = names(folder)
    assert notes(folder) == ""
    for name in ("a.jfif", "b.GIF", "c.JPE", "deeper/d.bmp"):
        path = folder / "train" / "cat" / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    (folder / "train" / "cat" / "labels.csv").write_text("")
    (folder / "train" / "dog" / "0.png.part").write_text("")
    draw(folder / "train" / "beside.png")
    draw(folder / "valid" / "cat" / "0.png")
    assert set(names(folder)) - set(whole) == {f"train/cat/{n}" for n in ("a.jfif", "b.GIF", "c.JPE", "deeper/d.bmp")}
    said = notes(folder)
    assert "3 files are not used" in said
    for name in ("train/beside.png", "train/cat/labels.csv", "train/dog/0.png.part", "valid/"):
        assert name in said


def test_hidden_files_and_folders_are_no_data(folder: Path) -> None:
    whole = names(folder)
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/0-checkpoint.png"):
        path = folder / "train" / "cat" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0\5\26\7")
    for name in (".ipynb_checkpoints", "__MACOSX", "cat/__MACOSX"):
        draw(folder / "train" / name / "x.png")
    draw(folder / ".cache" / "x.png")
    assert names(folder) == whole
    assert notes(folder) == ""


def test_the_order_is_that_of_torchvision(folder: Path) -> None:
    from torchvision.datasets import ImageFolder

    for name in ("cat-2/10.png", "cat/9.png", "cat/b/1.png", "cat/a/2.png", "cat/a-b/3.png", "Zebra/1.png"):
        draw(folder / "train" / name)
    train, _, _ = list_folder(folder)
    theirs = ImageFolder(str(folder / "train"))
    assert train.samples == theirs.samples
    assert list(train.classes) == theirs.classes


def test_classes_that_lack_images(folder: Path) -> None:
    draw(folder / "train" / "bird" / "0.png")
    (folder / "test" / "bird").mkdir()
    assert "no test images of class 'bird'" in notes(folder)
    assert made(folder).test_labels.tolist() == [1, 2]
    draw(folder / "train" / "ant" / "0.png")
    assert "no test images of classes 'ant', 'bird'" in notes(folder)
    for name in ("fox", "owl"):
        (folder / "train" / name).mkdir()
        (folder / "train" / name / "notes.txt").write_text("")
    assert "no picture of classes 'fox', 'owl'" in refusal(folder)
    for name in ("fox", "owl"):
        (folder / "train" / name / "notes.txt").unlink()
        (folder / "train" / name).rmdir()
        draw(folder / "test" / name / "0.png")
    assert "classes 'fox', 'owl' in test/ but not in train/" in refusal(folder)


def test_folders_without_what_is_needed(folder: Path, tmp_path: Path) -> None:
    (folder / "test").rename(folder / "val")
    assert "test: no such directory (there are train, val)" in refusal(folder)
    (folder / "val").rename(folder / "test")
    for path in (folder / "test").glob("*/*"):
        path.unlink()
    assert "no picture in any class folder" in refusal(folder)
    draw(tmp_path / "flat" / "train" / "0.png")
    assert "no class folder (1 file lies there without a class)" in refusal(tmp_path / "flat")
    (folder / "train" / "cat" / "loop").symlink_to(folder / "train")
    assert "links to a folder that it lies in" in refusal(folder)


def test_one_class_is_noted_and_one_color_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("0.png", "1.png"):
            draw(tmp_path / "images" / split / "cat" / name, 7)
    assert "train: every picture is of one and the same color" in refusal(tmp_path / "images")
    draw(tmp_path / "images" / "train" / "cat" / "1.png", 90)
    assert "only one class" in notes(tmp_path / "images")


def test_all_damaged_pictures_are_named_at_once(folder: Path) -> None:
    whole = (folder / "train" / "cat" / "0.png").read_bytes()
    (folder / "test" / "dog" / "empty.png").write_bytes(b"")
    (folder / "test" / "dog" / "gone.png").symlink_to(folder / "nowhere")
    (folder / "train" / "cat" / "half.png").write_bytes(whole[:60])
    (folder / "train" / "cat" / "text\n.png").write_text("text")
    message = refusal(folder)
    assert f"{folder}: 4 images are not readable" in message
    for name in ("test/dog/empty.png (empty file)", "test/dog/gone.png (a link", "train/cat/half.png", "text\\x0a.png"):
        assert name in message
    for index in range(30):
        (folder / "train" / "dog" / f"{index:02}.jpg").write_bytes(b"")
    message = refusal(folder)
    assert "34 images are not readable" in message
    assert "and 14 more; repair or remove them" in message


def test_pictures_of_unknown_range_are_named_with_the_range_that_they_have(folder: Path) -> None:
    write_tiff(folder / "train" / "cat" / "a.tif", RAMP.astype("f4") / 65535)
    write_tiff(folder / "test" / "cat" / "b.tif", RAMP.astype("i4") - 5)
    (folder / "test" / "dog" / "c.png").write_bytes(b"")
    message = refusal(folder)
    for words in ("train/cat/a.tif, test/cat/b.tif", "--image-range LOW,HIGH", "from -5 to 65530", "c.png"):
        assert words in message
    (folder / "test" / "dog" / "c.png").unlink()
    dataset = made(folder, PictureOptions((0, 65535)))
    assert dataset.test_images[1, 31, 31].tolist() == [255] * 3


def test_16_bit_color_and_a_range(folder: Path) -> None:
    write_png(folder / "train" / "cat" / "deep.png", np.repeat(RAMP[..., None], 3, 2), 2)
    assert "train/cat/deep.png; convert them" in refusal(folder, PictureOptions((0, 4095)))
    assert made(folder).train_images[1].max() == 255


def test_notes_on_values(folder: Path) -> None:
    said = notes(folder, PictureOptions((0, 4095), (0, 0, 0)))
    assert "--image-range changes nothing: no picture has more than 8 bits" in said
    assert "--background changes nothing" in said
    for split, values in (("train", RAMP >> 4), ("test", RAMP >> 5)):
        for name in ("cat", "dog"):
            Image.fromarray(values).save(folder / split / name / "1.png")
    said = notes(folder)
    assert "4 pictures with more than 8 bits a value: 0 becomes black and 65535 white" in said
    assert "--image-range 0,4095 would use all levels" in said
    assert "4 pictures with 8 bits a value among them" in said
    said = notes(folder, PictureOptions((0, 2047)))
    assert "0 becomes black and 2047 white" in said
    assert "25 % of their values lie outside that range and are clipped (from 0 to 4095)" in said
    assert "would use" not in notes(folder, PictureOptions((0, 4095)))


@pytest.mark.parametrize(("shift", "narrow"), [(2, "from 0 to 63 of 255"), (4, "from 0 to 15 of 255"), (0, "")])
def test_color_of_16_bits_is_counted_by_itself_and_its_range_is_looked_at(
    folder: Path, shift: int, narrow: str
) -> None:
    """Transparent pixels are not counted.

    A white background would hide how dark the rest is.
    """
    color = np.repeat(RAMP[..., None] >> shift, 3, 2)
    clear = np.dstack([color, np.full_like(RAMP, 65535)])
    clear[0] = (65535, 65535, 65535, 0)
    for split in ("train", "test"):
        write_png(folder / split / "cat" / "a.png", color, 2)
        write_png(folder / split / "dog" / "b.png", clear, 6)
        Image.fromarray(RAMP).save(folder / split / "dog" / "c.png")
    said = notes(folder)
    assert "2 pictures with more than 8 bits a value: 0 becomes black and 65535 white" in said
    assert "4 pictures with more than 8 bits a color channel, of which the upper 8 are used" in said
    assert "4 pictures with 8 bits a value among them, used as they are" in said
    assert ("all look much alike" in said) is bool(narrow)
    assert narrow in said


def test_pictures_of_8_bits_that_use_few_levels_are_noted(folder: Path) -> None:
    for path in folder.glob("*/dog/0.png"):
        draw(path, 72)
    assert "4 pictures with 8 bits a value, whose levels run only from 10 to 72 of 255" in notes(folder)


def test_notes_on_transparency_and_frames(folder: Path) -> None:
    draw(folder / "train" / "cat" / "1.png", 100, "RGBA")
    frames = [Image.new("RGB", (32, 32), (value, 0, 0)) for value in (200, 0)]
    frames[0].save(folder / "train" / "dog" / "1.gif", save_all=True, append_images=frames[1:])
    said = notes(folder, PictureOptions(background=(0, 0, 255)))
    assert "1 picture with transparency, put on the color #0000ff" in said
    assert "1 picture with several frames only the first is used: train/dog/1.gif" in said
    blue = made(folder, PictureOptions(background=(0, 0, 255))).train_images[1, 0, 0].tolist()
    assert blue == pytest.approx([39, 39, 194], abs=1)
    assert made(folder).train_images[1, 0, 0].tolist() == pytest.approx([194] * 3, abs=1)  # not the same cache file


# --- options ---


def test_options_of_pictures() -> None:
    def pictures(**options: str) -> PictureOptions:
        config = RunConfig.of(mode="sgd", dataset="imagefolder:x", **options)
        check_together(config)
        return config.data.pictures

    assert pictures() == PictureOptions(None, (255, 255, 255))
    assert pictures(image_range="0,4095").value_range == (0, 4095)
    assert pictures(image_range="-1.5, 2e3").value_range == (-1.5, 2000)
    for one, other in (("0,4095", " 0.0, 4.095e3 "), ("-0.5,1e300", "-.5,1e+300"), ("0,1", "-0.0,1")):
        assert RunConfig.of(image_range=one) == RunConfig.of(image_range=other)
        assert pictures(image_range=RunConfig.of(image_range=one).data.image_range or "") == pictures(image_range=one)
    assert RunConfig.of(background="white") == RunConfig.of(background="#FFFFFF") == RunConfig.of()
    assert RunConfig.of(background="Grey") == RunConfig.of(background="#808080") != RunConfig.of()
    assert pictures(background="Black").background == (0, 0, 0)
    assert pictures(background="#0a10FF").background == (10, 16, 255)
    for text in ("5", "1,1", "2,1", "a,b", "0,1,2", "nan,1", "0,inf", "-1e308,1e308", ""):
        with pytest.raises(ConfigError, match=r"^--image-range .*LOW,HIGH"):
            pictures(image_range=text)
    for text in ("", "#fff", "blac", "rgb(1,2,3)", "#12345g"):
        with pytest.raises(ConfigError, match=r"^--background .*#rrggbb"):
            pictures(background=text)
    for name, value in (("image_range", "0,9"), ("background", "#000000")):
        config = RunConfig.of(mode="sgd", dataset="digits", **{name: value})
        with pytest.raises(ConfigError, match=f"^--{name.replace('_', '-')} {value}: means nothing with --dataset dig"):
            check_together(config)


def test_a_dry_run_says_what_is_odd_and_refuses_what_the_run_refuses(folder: Path) -> None:
    draw(folder / "train" / "bird" / "0.png")
    spec, cache = f"imagefolder:{folder}", str(folder.parent / "cache")
    config = RunConfig.of(mode="sgd", dataset=spec, data_dir=cache, model="vgg11", width=0.0625, batch_size=1)
    topology = topology_of(config)
    assert topology is not None
    said = describe_run(topology, config)
    assert "\nnote:        no test images of class 'bird'" in said
    assert "\nnote:        training images are shifted and mirrored at random; --augment off" in said
    assert "mirrored" not in describe_run(topology, replace_options(config, augment="off"))
    (folder / "train" / "bird" / "1.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"bird/1.png: not a readable image \(empty file\)"):
        describe_run(topology, config)


# --- real runs ---


def halves(folder: Path) -> None:
    """Pictures of 16 bits, in classes by the brighter half."""
    draws = np.random.default_rng(1)
    for split, count in (("train", 48), ("test", 16)):
        for name, half in (("left", slice(0, 16)), ("right", slice(16, 32))):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                shade = draws.uniform(0.1, 0.3, (32, 32))
                shade[:, half] += 0.5
                Image.fromarray((shade * 65535).astype(np.uint16)).save(folder / split / name / f"{index}.png")


@pytest.mark.processes
def test_16_bits_are_learned_once_they_are_not_mirrored(tmp_path: Path) -> None:
    """And what is odd about the pictures stands among the lines of the run."""
    halves(tmp_path / "images")
    words = ["sgd", "--dataset", f"imagefolder:{tmp_path / 'images'}", "--data-dir", str(tmp_path / "cache")]
    words += ["--augment", "off", "--model", "user_models:linear", "--epochs", "2", "--batch-size", "8"]
    result = run(*words, "--device", "cpu", "--threads", "1", "--run-dir", str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr
    assert "note: 128 pictures with more than 8 bits a value: 0 becomes black and 65535 white" in result.stdout
    assert float(result.stdout.partition("model: ")[2].partition("%")[0]) > 90, result.stdout


@pytest.mark.processes
def test_a_folder_may_move_between_a_run_and_its_resumption(folder: Path, tmp_path: Path) -> None:
    """It is named relative to where the run began; what counts later is what it holds."""
    words = ["--model", "vgg11", "--width", "0.0625", "--batch-size", "1", "--schedule", "constant", "--device", "cpu"]
    words += ["--dataset", "imagefolder:images", "--data-dir", "cache", "--rounds", "1", "--run-dir", "run"]
    (tmp_path / "elsewhere").mkdir()
    there, resumed = {"cwd": tmp_path / "elsewhere"}, ["sgd", "--resume", str(tmp_path / "run"), "--rounds"]
    results = [run("sgd", *words, cwd=tmp_path), run(*resumed, "2", **there)]
    folder.rename(tmp_path / "moved")
    results += [run(*resumed, "3", **there), run(*resumed, "3", "--dataset", "imagefolder:../moved", **there)]
    results.append(run(*resumed, "4", **there))
    draw(tmp_path / "moved" / "train" / "cat" / "0.png", 11)
    results.append(run(*resumed, "5", **there))
    assert [result.returncode for result in results] == [0, 0, 2, 0, 0, 2], [result.stderr for result in results]
    assert f"{folder}/train: no such directory" in results[2].stderr
    assert f"imagefolder:{tmp_path}/moved: {tmp_path}/run was trained on other data" in results[5].stderr
    assert all(result.stderr.count("\n") == 1 for result in results if result.returncode)


@pytest.mark.processes
def test_damaged_pictures_are_named_alike_by_a_dry_run_and_a_run(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "cat" / "1.tif").write_bytes(b"II*\0")
    (folder / "test" / "dog" / "1.jfif").write_bytes(b"")
    words = ["sgd", "--dataset", f"imagefolder:{folder}", "--data-dir", str(tmp_path / "cache"), "--batch-size", "1"]
    words += ["--model", "vgg11", "--width", "0.0625", "--device", "cpu"]
    dry, real = run(*words, "--dry-run"), run(*words, "--run-dir", str(tmp_path / "run"))
    assert (dry.returncode, real.returncode) == (2, 2)
    for name in ("train/cat/1.tif (", "test/dog/1.jfif (empty file)"):
        assert name in dry.stderr
    assert real.stderr.splitlines()[-1] == dry.stderr.strip()
    assert not (tmp_path / "run").exists()


def test_pictures_in_hidden_folders_are_counted_unless_programs_put_them_there(folder: Path) -> None:
    (folder / "train" / ".empty").mkdir()
    for name in (".dotclass/1.png", ".dotclass/deeper/2.png", "cat/.more/3.png"):
        draw(folder / "train" / name)
    for name in (".ipynb_checkpoints", ".Trash-1000", "__MACOSX", ".thumbnails"):
        draw(folder / "test" / name / "1.png")
    said = notes(folder)
    assert (
        "pictures in hidden folders are not used: train/.dotclass/ (2 pictures), train/cat/.more/ (1 picture)" in said
    )
    assert said.count("\n") == 0


def test_class_names_that_differ_only_in_their_unicode_form_are_refused(folder: Path) -> None:
    draw(folder / "train" / "\u00e9" / "0.png")
    draw(folder / "test" / "e\u0301" / "0.png")
    assert "differs from a class of train/ or test/ only in its Unicode form ('e\\u0301' and '\\xe9')" in refusal(
        folder
    )
    draw(folder / "train" / "e\u0301" / "0.png")
    assert "put their pictures into one folder" in refusal(folder)
