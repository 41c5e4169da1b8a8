"""Make the files of ``fashion-mnist-mini`` that ship inside the package.

Run from the repository root: ``python calibration/make_fashion_mnist_mini.py``. It fetches the
whole Fashion-MNIST, draws by the seed the same number of images of each class from the original's
training part (train) and from its test part (validation), keeps the original's order, and writes
gzipped IDX. The same files come out every time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from edgevision.data import load_data
from edgevision.data.arrays import ArrayDataset
from edgevision.data.idx import write_idx

SEED = 0
PER_CLASS = {"train": 1200, "validation": 300}
FOLDER = Path(__file__).parents[1] / "edgevision" / "data" / "files" / "fashion-mnist-mini"


def main() -> None:
    """Write the files."""
    whole = load_data("fashion-mnist")
    generator = np.random.default_rng(SEED)
    FOLDER.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for split, dataset in (("train", whole.train), ("validation", whole.validation)):
        assert isinstance(dataset, ArrayDataset)
        chosen = np.sort(
            np.concatenate(
                [
                    generator.permutation(np.flatnonzero(dataset.targets == number))[
                        : PER_CLASS[split]
                    ]
                    for number in range(len(dataset.labels))
                ]
            )
        )
        for kind, array in (
            ("images", dataset.images[chosen][..., 0]),
            ("labels", dataset.targets[chosen].astype(np.uint8)),
        ):
            content = write_idx(array)
            name = f"{split}-{kind}.idx.gz"
            (FOLDER / name).write_bytes(content)
            hashes[name] = hashlib.sha256(content).hexdigest()
    manifest = {"source": "fashion-mnist", "seed": SEED, "per_class": PER_CLASS, "sha256": hashes}
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
