"""GPUs: what the driver shows against what torch can use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from affinity_service.doctor.finding import Finding

DEVICES = ("nvidiactl", "kfd", "dxg")
DRIVER = Path("/proc/driver/nvidia/version")


def gpus(devices: Path = Path("/dev"), driver: Path = DRIVER) -> Iterator[Finding]:
    if not any((devices / name).exists() for name in DEVICES):
        yield Finding("gpus", "ok", "none on this machine; training runs on its CPUs")
        return
    # Seconds to import, and of no use without a device.
    import torch

    version = _driver_version(driver)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        listed = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
        yield Finding("gpus", "ok", f"{listed}; driver {version}, torch {torch.__version__}")
        return
    built = torch.version.cuda or getattr(torch.version, "hip", None)
    if built is None:
        yield Finding(
            "gpus",
            "fail",
            f"a GPU is there, but torch {torch.__version__} is built for CPUs only",
            "install a CUDA build of torch: pip install --force-reinstall torch (without the CPU index)",
        )
    else:
        yield Finding(
            "gpus",
            "fail",
            f"driver {version} shows a GPU that torch {torch.__version__} (CUDA {built}) cannot use",
            f"update the driver to one for CUDA {built}, or install a torch built for an older CUDA; in a container "
            "start it with --gpus all",
        )


def _driver_version(driver: Path) -> str:
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", driver.read_text()) if driver.is_file() else None
    return found[0] if found else "of unknown version"
