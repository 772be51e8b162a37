"""Batches: a function of the step; crop, flip and normalization as torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as vision

from p2pfl.data import Batches, Dataset, evaluation_batches
from p2pfl.errors import ConfigError
from p2pfl.seeding import torch_generator

CPU = torch.device("cpu")
SHARD = np.array([1, 2, 4, 7, 8, 10, 11, 12, 15, 19])


def make(augment: bool = True, plain: bool = True) -> Dataset:
    """Twenty random images labeled by row; `plain` keeps value / 255."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Dataset(
        name="made",
        train_images=images,
        train_labels=torch.arange(20),
        test_images=images.flip(0),
        test_labels=torch.arange(20).flip(0),
        classes=tuple(str(row) for row in range(20)),
        mean=(0.0, 0.0, 0.0) if plain else (0.5, 0.25, 0.4),
        std=(1.0, 1.0, 1.0) if plain else (0.2, 0.3, 0.1),
        augment=augment,
    )


def pixels(x: torch.Tensor) -> torch.Tensor:
    """Back to whole numbers, so that comparisons are exact."""
    return (x * 255).round().to(torch.uint8)


def test_crop_and_flip_equal_torchvision() -> None:
    dataset = make()
    batches = Batches(dataset, SHARD, 5, CPU, seed=3, peer=2)
    for epoch in range(3):
        order = torch.randperm(10, generator=torch_generator(3, "order", 2, epoch))
        generator = torch_generator(3, "augment", 2, epoch)
        corner = torch.randint(0, 9, (2, 10), generator=generator)
        flip = torch.rand(10, generator=generator) < 0.5
        assert 0 < flip.sum() < 10
        for half in range(2):
            x, y = batches.batch(2 * epoch + half)
            for row, position in enumerate(range(5 * half, 5 * half + 5)):
                index = int(SHARD[order[position]])
                image = vision.pad(dataset.train_images[index].permute(2, 0, 1), [4], padding_mode="reflect")
                image = vision.crop(image, int(corner[0, position]), int(corner[1, position]), 32, 32)
                image = vision.hflip(image) if flip[position] else image
                assert y[row] == index
                assert torch.equal(pixels(x[row]), image)


def test_offsets_and_flips_reach_all_their_values() -> None:
    ramp = torch.arange(32, dtype=torch.uint8)
    image = torch.stack([ramp[:, None].expand(32, 32), ramp.expand(32, 32), ramp.expand(32, 32)], -1)
    dataset = Dataset(**{**vars(make()), "train_images": image.expand(20, 32, 32, 3).contiguous()})
    batches = Batches(dataset, np.arange(20), 20, CPU, seed=0, peer=0)
    seen = set()
    for step in range(20):
        x = pixels(batches.batch(step)[0])
        # The red value four pixels in is the row there, green the column: they tell offset and flip.
        center = x[:, :2, 8, 8].tolist()
        flipped = (x[:, 1, 8, 8].int() > x[:, 1, 8, 9].int()).tolist()
        seen |= {
            (row - 4, (27 - column) if flip else column - 4, flip)
            for (row, column), flip in zip(center, flipped, strict=True)
        }
    assert {row for row, _, _ in seen} == set(range(9))
    assert {column for _, column, flip in seen if not flip} == set(range(9))
    assert {column for _, column, flip in seen if flip} == set(range(9))
    assert len({(row, column) for row, column, _ in seen}) > 60  # of 81: rows and columns are independent


def test_normalization_layout_and_types() -> None:
    dataset = make(augment=False, plain=False)
    x, y = Batches(dataset, SHARD, 4, CPU, seed=0, peer=0).batch(1)
    assert x.shape == (4, 3, 32, 32)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == torch.int64
    expected = dataset.train_images[y].permute(0, 3, 1, 2).double() / 255
    expected = vision.normalize(expected, dataset.mean, dataset.std)
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)


def test_an_epoch_is_the_shard_once_without_the_incomplete_batch() -> None:
    batches = Batches(make(), SHARD, 3, CPU, seed=0, peer=0)
    assert batches.steps_per_epoch == 3
    epochs = [torch.cat([batches.batch(3 * epoch + step)[1] for step in range(3)]) for epoch in range(12)]
    for labels in epochs:
        assert len(set(labels.tolist())) == 9
        assert set(labels.tolist()) <= set(SHARD.tolist())
    assert not torch.equal(epochs[0], epochs[1])
    assert set(torch.cat(epochs).tolist()) == set(SHARD.tolist())  # each epoch leaves another one out


def test_a_batch_is_a_pure_function_of_its_step() -> None:
    used = Batches(make(), SHARD, 3, CPU, seed=0, peer=1)
    for step in (0, 9, 4, 5, 0, 7):
        fresh = Batches(make(), SHARD, 3, CPU, seed=0, peer=1)
        for one, other in zip(used.batch(step), fresh.batch(step), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"peer": 1}])
def test_seed_and_peer_change_the_draws(changes: dict[str, int]) -> None:
    one = Batches(make(), SHARD, 10, CPU, seed=0, peer=0)
    other = Batches(make(), SHARD, 10, CPU, **{"seed": 0, "peer": 0, **changes})
    assert not torch.equal(one.batch(0)[1], other.batch(0)[1])
    assert not torch.equal(one.batch(0)[0].sum((1, 2, 3)).sort()[0], other.batch(0)[0].sum((1, 2, 3)).sort()[0])


def test_global_randomness_is_left_alone() -> None:
    before = torch.get_rng_state()
    Batches(make(), SHARD, 3, CPU, seed=0, peer=0).batch(8)
    list(evaluation_batches(make(), CPU, 5, seed=0))
    assert torch.equal(before, torch.get_rng_state())


def test_the_data_set_stays_as_it_was() -> None:
    dataset, untouched = make(plain=False), make(plain=False)
    Batches(dataset, SHARD, 5, CPU, seed=0, peer=0).batch(0)[0].zero_()
    next(evaluation_batches(dataset, CPU, 0, seed=0))[0].zero_()
    assert torch.equal(dataset.train_images, untouched.train_images)
    assert torch.equal(dataset.test_images, untouched.test_images)


@pytest.mark.parametrize(("batch_size", "shard"), [(0, SHARD), (1, SHARD[:0])])
def test_batches_and_shards_have_samples(batch_size: int, shard: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=rf"--batch-size {batch_size}: peer 6 has a shard of {len(shard)} samples"):
        Batches(make(), shard, batch_size, CPU, seed=0, peer=6)


@pytest.mark.parametrize("batch_size", [11, 20, 33])
def test_a_shard_smaller_than_a_batch_is_drawn_from_in_new_orders(batch_size: int) -> None:
    batches = Batches(make(), SHARD, batch_size, CPU, seed=0, peer=0)
    assert batches.steps_per_epoch == 1
    found = [batches.batch(step)[1] for step in range(3)]
    for labels in found:
        occurrences = labels.bincount(minlength=20)[SHARD]  # a sample's label is its number
        assert len(labels) == batch_size
        assert occurrences.max() - occurrences.min() <= 1, "each sample equally often, give or take once"
    assert not torch.equal(found[0], found[1])


def test_evaluation_sees_the_whole_test_set_once() -> None:
    dataset = make()
    for samples in (0, 20, 99):
        parts = list(evaluation_batches(dataset, CPU, samples, seed=0, batch_size=8))
        assert [len(y) for _, y in parts] == [8, 8, 4]
        assert torch.equal(torch.cat([y for _, y in parts]), dataset.test_labels)
        images = pixels(torch.cat([x for x, _ in parts]))
        assert torch.equal(images, dataset.test_images.permute(0, 3, 1, 2))


def test_evaluation_on_a_subset_is_the_same_every_time() -> None:
    def labels(seed: int) -> list[int]:
        return torch.cat([y for _, y in evaluation_batches(make(), CPU, 7, seed, 3)]).tolist()

    assert len(set(labels(0))) == 7
    assert labels(0) == labels(0)
    assert labels(0) != labels(1)
    with pytest.raises(ConfigError, match="-1 test samples"):
        evaluation_batches(make(), CPU, -1, seed=0)


def test_another_device_holds_only_the_shard() -> None:
    meta = torch.device("meta")  # has no values, but refuses tensors of two devices in one operation
    batches = Batches(make(), SHARD, 3, meta, seed=0, peer=0)
    x, y = batches.batch(4)
    assert (x.device.type, y.device.type) == ("meta", "meta")
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert (batches.images.shape[0], batches.images.dtype) == (len(SHARD), torch.uint8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches_and_only_its_shard() -> None:
    dataset, gpu = make(plain=False), torch.device("cuda")
    here, there = (Batches(dataset, SHARD, 3, device, seed=0, peer=0) for device in (CPU, gpu))
    for step in range(7):
        for one, other in zip(here.batch(step), there.batch(step), strict=True):
            assert other.device.type == "cuda"
            assert other.stride() == one.stride()
            torch.testing.assert_close(other.cpu(), one, rtol=1e-6, atol=1e-6)
    assert there.images.shape[0] == len(SHARD)
    assert there.images.dtype == torch.uint8
    for one, other in zip(evaluation_batches(dataset, CPU, 0, 0), evaluation_batches(dataset, gpu, 0, 0), strict=True):
        torch.testing.assert_close(other[0].cpu(), one[0], rtol=1e-6, atol=1e-6)
        assert torch.equal(other[1].cpu(), one[1])
