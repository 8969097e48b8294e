"""Makes torchvision importable with a torch for CPUs. The Python of the vLLM environment runs this program once, after
the installation.

PyPI has torchvision only for GPUs. With a torch without CUDA, torchvision's compiled part does not load. torchvision
tolerates that, except in one place, which refers to two operators that were never declared ("operator torchvision::nms
does not exist"). This program declares them. vLLM imports torchvision for every model that also takes images, but uses
only `torchvision.transforms`, which is written in Python. If torchvision can be imported, nothing is changed. The
program uses only the standard library, since the interpreter that runs it does not have this package.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

MARK = "# Declared by NanoFlux Local: the compiled part does not load with a torch for CPUs."
"""The comment that precedes the declarations in torchvision's module."""
DECLARATIONS = f"""

{MARK}
if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""The code that is appended to torchvision's module."""


def find_import_error() -> str:
    """The error that importing torchvision raises; "" if the import succeeds.

    torchvision is imported in a new process, since a failed import leaves modules behind.
    """
    command = [sys.executable, "-P", "-c", "import torchvision"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return ""
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {result.returncode}"


def declare_operators() -> None:
    """Append the declarations to torchvision's module unless it already has them."""
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return
    module = Path(package.origin).with_name("extension.py")
    source = module.read_text("utf-8")
    if MARK not in source:
        module.write_text(source + DECLARATIONS, "utf-8")


def main() -> int:
    """Declare the operators if necessary; return exit code 0 if torchvision can now be imported, else 1."""
    if "torchvision::nms" in find_import_error():
        declare_operators()
    reason = find_import_error()
    if reason:
        message = f"torchvision cannot be imported, so models that also take images cannot be served: {reason}"
        print(message, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
