"""Names of a TensorRT Python module, as ``trt_names.json`` holds them.

    python tests/unit/backends/trt_inventory.py tensorrt_rtx rtx-1.7

reads them off the installed module and writes them into the file under that key. The bindings of
8.6, 10.3, 10.13 and 11.4 are wheels of a megabyte that import over empty libraries of TensorRT's
names: ``tests/install/test_trt_bindings.py`` does that and compares. Those of 8.5 (JetPack 5.1),
which has no wheel, are what its bindings define in their published sources; of ITensor, ILayer,
INetworkDefinition and IHostMemory there are the documented ones alone.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("trt_names.json")
# What building, reporting and running can reach. Of INetworkDefinition the methods that add layers
# are left out: the parser alone calls those.
CLASSES = (
    *("ILogger", "Builder", "BuilderFlag", "IBuilderConfig", "NetworkDefinitionCreationFlag"),
    *("OnnxParser", "ParserError", "INetworkDefinition", "ILayer", "LayerType", "ITensor"),
    *("IOptimizationProfile", "MemoryPoolType", "ProfilingVerbosity", "IProgressMonitor"),
    *("DeviceType", "HardwareCompatibilityLevel", "ITimingCache", "IHostMemory", "Runtime"),
    *("ICudaEngine", "IExecutionContext", "EngineInspector", "LayerInformationFormat"),
    *("TensorIOMode", "DataType", "ComputeCapability"),
)


def inventory(trt: Any) -> dict[str, Any]:
    """Version, and by class its kind ("E" for an enum, "C" for a class) and public names."""
    classes = {}
    for name in CLASSES:
        found = getattr(trt, name, None)
        if found is None:
            continue
        members = getattr(found, "__members__", None)
        if members is not None:
            names = ["E", *sorted(members, key=lambda member: int(members[member]))]
        else:
            names = ["C", *(one for one in sorted(dir(found)) if not one.startswith("_"))]
        if name == "INetworkDefinition":
            names = [one for one in names if not one.startswith("add_")]
        classes[name] = " ".join(names)
    return {"__version__": trt.__version__, "classes": classes}


def write(key: str, names: dict[str, Any]) -> None:
    """Put ``names`` into the file under ``key``."""
    known = json.loads(FILE.read_text(encoding="utf-8"))
    known[key] = names
    FILE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[2], inventory(importlib.import_module(sys.argv[1])))
