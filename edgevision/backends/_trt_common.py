"""What ``tensorrt`` and ``tensorrt_rtx`` share: all but the vendor module and its header."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from edgevision.backends._cuda import Cuda
from edgevision.backends._trt_build import Built, build_plan
from edgevision.backends._trt_layers import layers_from_inspector, layers_from_log
from edgevision.backends._trt_log import Log
from edgevision.backends._trt_options import is_strongly_typed
from edgevision.backends._trt_runner import TensorRTRunner, check_header, deserialize, inspect
from edgevision.backends.base import Artifact, Backend, BuildOptions, Runner
from edgevision.backends.onnx_file import OnnxFile, read_onnx
from edgevision.devices import sysfs
from edgevision.devices.local import this_machine
from edgevision.errors import InputError, MissingExtraError, UnavailableError
from edgevision.files import write_atomic
from edgevision.types import Availability, LayerInfo

# Set to 1, plans may bring code for the CPU along, as version-compatible ones do.
_HOST_CODE = "EDGEVISION_ALLOW_HOST_CODE"


def allows_host_code() -> bool:
    """Whether the user lets plans bring code for the CPU along."""
    return os.environ.get(_HOST_CODE) == "1"


class TensorRTFamily(Backend):
    """A backend over one vendor module of the TensorRT family."""

    artifact_suffix = ".engine"
    module: ClassVar[str]  # to import
    magic: ClassVar[bytes]  # first four bytes of its plans

    def is_available(self) -> Availability:
        trt = self._load()
        if isinstance(trt, str):
            return Availability(False, trt)
        return Availability(True, f"{self.module} {trt.__version__}")

    def can_run(self) -> Availability:
        trt = self._load()
        if isinstance(trt, str):
            return Availability(False, trt)
        try:
            count = Cuda().device_count()
        except MissingExtraError as error:
            return Availability(False, f"engines run through cuda-bindings: {error.message}")
        if not count:
            return Availability(False, "no NVIDIA GPU or no driver here")
        return Availability(True, f"{self.module} {trt.__version__} on {this_machine().gpu}")

    def version(self) -> str:
        """The vendor's version, e.g. "10.3.0".

        Raises:
            UnavailableError: the module cannot be imported.
        """
        return str(self._module().__version__)

    def takes_types_from_graph(self) -> bool:
        """Whether a float16 engine takes a float16 graph; TensorRT 8 wants a flag instead.

        Raises:
            UnavailableError: the module cannot be imported.
        """
        return is_strongly_typed(self._module())

    def _module(self) -> Any:
        trt = self._load()
        if isinstance(trt, str):
            raise UnavailableError(f"Backend '{self.name}': {trt}.", hint=self.install)
        return trt

    def _load(self) -> Any | str:
        """The vendor module, or why it cannot be imported."""
        try:
            return import_module(self.module)
        except ModuleNotFoundError as error:
            if error.name == self.module:
                return f"the package '{self.module}' is not installed"
            return f"'{self.module}' cannot be imported: {error}"
        except (ImportError, OSError, RuntimeError) as error:  # its native libraries are missing
            return f"'{self.module}' cannot be imported: {error}"

    def _check_options(self, options: BuildOptions) -> None:
        """Refuse what this builder cannot do."""

    def _capabilities(self, options: BuildOptions) -> list[str]:
        """SM names that the plan runs on."""
        if options.compute_capabilities:
            return list(options.compute_capabilities)
        here = this_machine().compute_capability
        return [here.replace(".", "")] if here else []

    def _build_impl(self, source: Path, output: Path, options: BuildOptions) -> Artifact:
        self._check_options(options)
        trt = import_module(self.module)
        file = read_onnx(source)
        start = time.monotonic()
        built = build_plan(trt, file, options)
        seconds = time.monotonic() - start
        version = check_header(built.plan, self.magic, output.name)
        layers = self._layers_of(trt, built, file, output.name, options)
        write_atomic(output, built.plan)
        meta = {
            "backend": self.name,
            "version": version,
            "compute_capabilities": self._capabilities(options),
            **_built_on(),
            "flags": list(built.flags),
            **asked_facts(file, options),
            **({} if options.dla_core is None else {"dla_fallback": list(built.dla_fallback)}),
            "build_seconds": round(seconds, 3),
            "onnx_sha256": file.sha256,
            "sha256": sha256(built.plan).hexdigest(),
        }
        return Artifact(self.name, output, meta, layers)

    def _layers_of(
        self, trt: Any, built: Built, file: OnnxFile, name: str, options: BuildOptions
    ) -> tuple[LayerInfo, ...]:
        if built.layer_log is not None:
            return layers_from_log(built.layer_log, file)
        owners = deserialize(
            trt,
            built.plan,
            name,
            Log(),
            dla_core=options.dla_core,
            host_code=options.version_compatible,  # this process built it
        )
        return layers_from_inspector(inspect(trt, owners[2]), file)

    def _open_impl(self, artifact: Artifact, threads: int | None) -> Runner:
        """``threads`` has no meaning on a GPU."""
        core = artifact.meta.get("dla_core")
        return TensorRTRunner.open(
            import_module(self.module),
            self._plan(artifact),
            artifact.path.name,
            dla_core=core if isinstance(core, int) else None,
            host_code=allows_host_code(),
        )

    def _layer_report_impl(self, artifact: Artifact) -> tuple[LayerInfo, ...]:
        self._require(self.can_run(), hint=self.install)
        trt = import_module(self.module)
        host_code = allows_host_code()
        owners = deserialize(
            trt, self._plan(artifact), artifact.path.name, Log(), host_code=host_code
        )
        return layers_from_inspector(inspect(trt, owners[2]))

    def _plan(self, artifact: Artifact) -> bytes:
        """The plan's bytes, its hash checked against the sidecar's before anything reads them."""
        plan = artifact.path.read_bytes()
        check_header(plan, self.magic, artifact.path.name)
        expected = artifact.meta.get("sha256")
        found = sha256(plan).hexdigest()
        if expected is not None and found != expected:
            raise InputError(
                f"'{artifact.path.name}' is not the file that was built: sha256 expected "
                f"{expected}, found {found}."
            )
        return plan


def _built_on() -> dict[str, str]:
    """The machine that builds, for the sidecar, as far as it tells."""
    here = this_machine()
    told = {"platform": here.platform, "machine": here.name, "gpu": here.gpu}
    told["driver"] = sysfs.word(sysfs.ROOT / "sys/module/nvidia/version")
    with suppress(UnavailableError):  # an engine can be built where none can be run
        told["cuda"] = Cuda().version()
    return {name: value for name, value in told.items() if value}


def asked_facts(file: OnnxFile, options: BuildOptions) -> dict[str, Any]:
    """What an engine of ``file`` was asked for, for its sidecar.

    ``batch`` holds the sizes that it accepts: the first axis of the first input.
    """
    first = options.shapes.get(file.inputs[0].name)
    batch = asdict(options.batch)
    if first is not None:
        batch = {"min": first.min[0], "opt": first.opt[0], "max": first.max[0]}
    told: dict[str, Any] = {"batch": batch, "workspace_mb": options.workspace_mb}
    if options.shapes:
        told["shapes"] = {
            name: {key: list(shape) for key, shape in asdict(one).items()}
            for name, one in options.shapes.items()
        }
    for name in ("tactic_memory_mb", "builder_level", "dla_core"):
        if getattr(options, name) is not None:
            told[name] = getattr(options, name)
    if options.version_compatible:
        told["version_compatible"] = True
    if options.hardware_compatible:
        told["hardware_compatibility"] = "ampere+"
    return told
