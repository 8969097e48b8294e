"""Make torchvision importable with a torch for CPUs: run by the Python of the vLLM environment, once after installing.

The package index has torchvision for GPUs alone. Beside a torch without CUDA its compiled part does not load, which
torchvision allows for everywhere but at one place: it describes two operators that were never declared ("operator
torchvision::nms does not exist"). This declares them. vLLM imports torchvision with every model that also takes
images; what it uses (`torchvision.transforms`) is written in Python. Changes nothing where torchvision imports.
Standard library only: the interpreter that runs it has nothing else of ours.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

MARK = "# Declared by NanoFlux Local: the compiled part does not load beside a torch for CPUs."
DECLARATIONS = f"""

{MARK}
if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def import_error() -> str:
    """Why torchvision does not import here, "" if it does. In a fresh process: a failed import leaves parts behind."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import torchvision"], capture_output=True, text=True, check=False
    )
    lines = done.stderr.strip().splitlines()
    return "" if not done.returncode else lines[-1] if lines else f"it ended with {done.returncode}"


def declare() -> None:
    """Append the declarations to torchvision's own module; do nothing if they are there already."""
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return
    module = Path(package.origin).with_name("extension.py")
    source = module.read_text("utf-8")
    if MARK not in source:
        module.write_text(source + DECLARATIONS, "utf-8")


def main() -> int:
    """Exit status: 0 where torchvision imports in the end."""
    if "torchvision::nms" in import_error():
        declare()
    reason = import_error()
    if reason:
        print(f"torchvision does not import, so models that also take images are not served: {reason}", file=sys.stderr)  # noqa: T201
    return bool(reason)


if __name__ == "__main__":
    sys.exit(main())
