"""Stands in for trtexec: the options that each version documents, and exports of its form.

Called as ``python fake_trtexec.py VERSION OPTION…``. An option that the version does not document,
or a value of another form, ends it as trtexec ends: ``Unknown option`` and code 1. Options are of
the help texts of 8.5 (JetPack 5.1), 8.6 (6.0) and 10 (6.1 and later), and 11's migration guide.
Forms of the exports: NVIDIA's ``sampleReporting.cpp``.
"""

import hashlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

SPEC = r"=('[^',]+'|[^:,']+):\d+(x\d+)*(,('[^',]+'|[^:,']+):\d+(x\d+)*)*"
FILE, NUMBER, ALONE = r"=.+", r"=\d+", ""
# By option: the form of its value. Options that no kit could want are left out.
COMMON = {
    "--onnx": FILE, "--saveEngine": FILE, "--loadEngine": FILE, "--timingCacheFile": FILE,
    "--minShapes": SPEC, "--optShapes": SPEC, "--maxShapes": SPEC, "--shapes": SPEC,
    "--memPoolSize": r"=(workspace|dlaSRAM|dlaLocalDRAM|dlaGlobalDRAM):[\d.]+",
    "--profilingVerbosity": "=(layer_names_only|detailed|none)", "--refit": ALONE,
    "--sparsity": "=(disable|enable|force)", "--noTF32": ALONE, "--tacticSources": FILE,
    "--warmUp": NUMBER, "--duration": NUMBER, "--iterations": NUMBER, "--avgRuns": NUMBER,
    "--noDataTransfers": ALONE, "--useSpinWait": ALONE, "--useCudaGraph": ALONE,
    "--exportTimes": FILE, "--exportOutput": FILE, "--exportProfile": FILE,
    "--exportLayerInfo": FILE, "--verbose": ALONE, "--device": NUMBER,
}  # fmt: skip
FLAGS = {"--fp16": ALONE, "--int8": ALONE, "--best": ALONE}
DLA = {"--useDLACore": NUMBER, "--allowGPUFallback": ALONE}
SINCE_86 = {
    "--skipInference": ALONE, "--builderOptimizationLevel": "=[0-5]", "--versionCompatible": ALONE,
    "--hardwareCompatibilityLevel": r"=(none|ampere\+)", "--maxAuxStreams": NUMBER,
}  # fmt: skip
VERSIONS = {
    "8.5.2": {**COMMON, **FLAGS, **DLA, "--buildOnly": ALONE},
    "8.6.2": {**COMMON, **FLAGS, **DLA, **SINCE_86},
    "10.3.0": {
        **COMMON, **FLAGS, **DLA, **SINCE_86,
        "--stronglyTyped": ALONE, "--allowWeightStreaming": ALONE,
    },
    "11.4.0": {
        **COMMON, **SINCE_86, "--allowWeightStreaming": ALONE,
        "--includeDataTransfers": ALONE, "--noCudaGraph": ALONE, "--noSpinWait": ALONE,
    },
}  # fmt: skip
# What some descriptions say, so that an option is not taken for there because another names it.
PROSE = {
    "--allowWeightStreaming": "Must be specified with --stronglyTyped.",
    "--saveEngine": "With --buildDLAStandalone --skipInference is enabled by default, --fp16 not.",
}


def write(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def say(text, level="I"):
    write(f"[11/22/2026-12:00:00] [{level}] {text}")


def fail(text):
    say(text, "E")
    write("&&&& FAILED TensorRT.trtexec")
    sys.exit(1)


def help_text(options):
    lines = ["=== Build Options ==="]
    for name, form in options.items():
        shown = f"{name}=spec" if form else name
        if name == "--versionCompatible":
            shown = "--versionCompatible, --vc"
        if name == "--builderOptimizationLevel":
            shown = name  # its help shows no value
        lines.append(f"  {shown:<34} Text.")
        if name in PROSE:
            lines.append(f"                                     {PROSE[name]}")
    return "\n".join([*lines, "", "=== Help ===", "  --help, -h   Print this message"])


def parse(version, arguments):
    options, given = VERSIONS[version], {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in options or not re.fullmatch(options[name], equals + value):
            write(help_text(options))
            fail(f"Unknown option: {argument}")
        if name in given:
            fail(f"Given twice: {name}")
        given[name] = value
    return given


def build(version, given):
    graph = Path(given["--onnx"]).read_bytes()
    if "--stronglyTyped" in given and FLAGS.keys() & given.keys():
        fail("Invalid usage, setting a precision is not allowed if graph is strongly typed.")
    spans = [given.get(f"--{end}Shapes") for end in ("min", "opt", "max")]
    if any(spans) and not all(spans):
        fail("min, opt and max shapes are needed together.")
    if os.environ.get("FAKE_SAYS"):
        say(os.environ["FAKE_SAYS"], "W")
    if os.environ.get("FAKE_FAILS") == "build":
        fail("Error Code 10: Internal Error (Could not find any implementation for node conv.)")
    cache = Path(given["--timingCacheFile"])
    if cache.exists():
        say(f"Loaded {cache.stat().st_size} bytes of timing cache from {cache}")
    Path(given["--saveEngine"]).write_bytes(b"ftrt half of it")
    time.sleep(float(os.environ.get("FAKE_BUILD_SECONDS", "0")))
    if os.environ.get("FAKE_FAILS") == "memory":
        os.kill(os.getpid(), signal.SIGKILL)
    numbers = [int(part) for part in version.split(".")] + [26]
    content = hashlib.sha256(graph + repr(sorted(given.items())).encode()).digest()
    plan = b"ftrt" + bytes(20) + bytes(numbers) + content * 64
    Path(given["--saveEngine"]).write_bytes(plan)
    cache.write_bytes(b"timings of " + version.encode())
    if "--useDLACore" in given:
        say("[TRT] ---------- Layers Running on DLA ----------")
        say("[TRT] [DlaLayer] {ForeignNode[conv...relu]}")
        say("[TRT] ---------- Layers Running on GPU ----------")
        say("[TRT] [GpuLayer] POOLING: pool")
    is_half = "--fp16" in given or "--stronglyTyped" in given
    Path(given["--exportLayerInfo"]).write_text(json.dumps(layers(version, is_half)))
    say("Engine built in 0.1 sec.")


def layers(version, is_half):
    kind = "FP16" if is_half else "FP32"
    tensor = {"Name": "images", "Location": "Device", "Dimensions": [1, 3, 16, 16]}
    if version.startswith("11"):
        tensor |= {"Format": "NCHW", "Datatype": "Half" if is_half else "Float"}
    else:
        tensor["Format/Datatype"] = f"Row major linear {kind} format"
    listed = [
        {
            "Name": name, "LayerType": layer_type, "Inputs": [tensor], "Outputs": [tensor],
            "TacticName": "a_kernel", "StreamId": 0, "Metadata": f"[ONNX Layer: {name}]",
        }
        for name, layer_type in (("conv", "CaskConvolution"), ("pool", "CaskPooling"))
    ]  # fmt: skip
    return {"Layers": listed, "I/O Tensors" if version.startswith("11") else "Bindings": ["images"]}


def measure(version, given):
    if not Path(given["--loadEngine"]).read_bytes().startswith(b"ftrt" + bytes(20)):
        fail("Error[6]: The engine plan file is not compatible with this version of TensorRT")
    if os.environ.get("FAKE_FAILS") == "measure":
        fail("Error Code 1: Cuda Runtime (out of memory)")
    time.sleep(float(os.environ.get("FAKE_MEASURE_SECONDS", "0")))
    warm_up = int(given["--warmUp"])
    # Before 10 the export begins with the warm-up, whose queries are slow; 400 follow it.
    early = [] if version[0] == "1" else [(at, 50.0) for at in range(0, warm_up, 100)]
    queries = early + [(warm_up + 10 * n, 2.0 + n / 100) for n in range(400)]
    trace = []
    for start, compute in queries:
        times = {
            "startEnqMs": start, "endEnqMs": start + 0.25, "startH2dMs": start - 0.5,
            "endH2dMs": start, "startComputeMs": start, "endComputeMs": start + compute,
            "startD2hMs": start + compute, "endD2hMs": start + compute + 0.25,
            "h2dMs": 0.5, "computeMs": compute, "d2hMs": 0.25, "latencyMs": compute + 0.75,
        }  # fmt: skip
        if version == "8.5.2":
            times["endToEndMs"] = 2 * compute
        trace.append(times)
    Path(given["--exportTimes"]).write_text(json.dumps(trace))
    say("Throughput: 100 qps")
    say("GPU Compute Time: min = 2 ms, max = 6 ms, mean = 4 ms, median = 4 ms")


def main(version, *arguments):
    write(f"&&&& RUNNING TensorRT.trtexec [TensorRT {version}] # trtexec {' '.join(arguments)}")
    if arguments == ("--help",):
        write(help_text(VERSIONS[version]))
        return
    with Path(os.environ["FAKE_CALLS"]).open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    given = parse(version, arguments)
    say("=== Device Information ===")
    say("Selected Device: Orin")
    say(f"Compute Capability: {os.environ.get('FAKE_CAPABILITY', '8.7')}")
    say(f"TensorRT version: {version}")
    if "--onnx" in given:
        build(version, given)
    if not {"--skipInference", "--buildOnly"} & given.keys():
        measure(version, given)
    write("&&&& PASSED TensorRT.trtexec")


if __name__ == "__main__":
    main(*sys.argv[1:])
