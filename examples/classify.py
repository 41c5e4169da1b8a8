"""Classify image files and folders on a device: python classify.py BUNDLE FILE_OR_FOLDER..."""
# ruff: noqa: T201

import sys
from pathlib import Path

from edgevision.runtime import load

bundle, *sources = sys.argv[1:]
with load(bundle) as model:
    print(model.choice)
    for source in map(Path, sources):
        found = model.predict_folder(source) if source.is_dir() else model.predict_files([source])
        for result in found:
            print(result.path.name, result.error or result.prediction.label)
