"""What a study needs on a cluster: its config, the code, the user's own module, and paths that mean the same there."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.config_models import PretrainedConfig
from affinity_service.engine.deepspeed_settings import READY_MADE, settings_file
from affinity_service.engine.session import ENVIRONMENT, PACKAGE, passed_on
from affinity_service.errors import UserError
from affinity_service.version import CARRIED, provenance

# Beside the package in a checkout, and installed beside it from a wheel.
ENTRY = PACKAGE.parent / "ray_jobs" / "run_study.py"
CONFIG_NAME, DEEPSPEED_NAME = "affinity-config.yaml", "affinity-deepspeed.json"
# Never part of what a job runs. What .gitignore names does travel: data often lies there.
LEFT_BEHIND = (".git", ".venv", "venv", "__pycache__", ".*_cache", ".hypothesis", "node_modules", "studies", "*.pyc")
# Ray keeps packages in the memory of the head and refuses larger ones.
LARGEST_BYTES = 500 << 20
# Keys of a source that name files.
PATHS = ("path", "labels", "edges", "communities")


@dataclass(frozen=True)
class Package:
    """The arguments of ``JobSubmissionClient.submit_job``."""

    entrypoint: str
    runtime_env: dict[str, Any]
    metadata: dict[str, str]


def study_location(study: str | None, config: Config) -> str:
    """The study as an absolute path or URI: a job has no working directory that stays."""
    return StudyFolder.at(study or Path("studies", config.name)).root


def working_dir(config: Config, given: Path | None, config_path: Path | None) -> Path | None:
    """The folder that travels with the job: the one asked for, or the config's when it names a function of yours. A
    config that lies in no file names functions of what is installed.

    Raises
    ------
    UserError
        There is no such folder.
    """
    folder = given
    if folder is None and config_path is not None and getattr(config.data, "function", None):
        folder = config_path.absolute().parent
    if folder is not None and not folder.is_dir():
        raise UserError(f"--working-dir {folder}: no folder there")
    return folder


def check_data_paths(config: Config, folder: Path | None) -> None:
    """Refuse a data path that cannot be found from the job.

    Absolute paths and URIs are taken as they are: the head reads them, and only it knows what it sees.

    Raises
    ------
    UserError
        A relative path that does not lie in the folder that travels; the key is named.
    """
    paths = {f"data.{key}": getattr(config.data, key, None) for key in PATHS}
    if isinstance(config.model, PretrainedConfig) and Path(config.model.path).exists():
        # Else a name on the hub, or within a package.
        paths["model.path"] = config.model.path
    for key, value in paths.items():
        if not isinstance(value, str) or "://" in value or Path(value).is_absolute():
            continue
        if folder is None:
            raise UserError(
                f"`{key}`: {value} is relative, and the job runs elsewhere: send the folder that it is relative "
                "to along with --working-dir DIR, or name an absolute path or URI that the cluster sees"
            )
        place = Path(os.path.normpath(folder.absolute() / value))
        if not place.is_relative_to(folder.absolute()):
            raise UserError(f"`{key}`: {value} leads out of --working-dir {folder}, which is all that travels")
        if not place.exists():
            raise UserError(f"`{key}`: {value} is not in --working-dir {folder}")


def package(
    config: Config, study: str, folder: Path | None, installed: bool, stage: Path, until: str = "report"
) -> Package:
    """Lay everything that travels into `stage` and describe the job.

    Parameters
    ----------
    study : absolute path or URI.
    folder : the user's folder, copied whole.
    installed : the cluster has this package; otherwise it travels.

    Raises
    ------
    UserError
        The folder is too large to travel or cannot be read.
    """
    if folder is not None:
        _copy(folder, stage)
    stage.mkdir(parents=True, exist_ok=True)
    entry = ["-m", "affinity_service", "run"]
    options = ["--address", "auto"]
    # A copy of the package that a cluster carried to its nodes comes without the script.
    if ENTRY.is_file():
        shutil.copy(ENTRY, stage / ENTRY.name)
        entry, options = [ENTRY.name], []
    if config.base.deepspeed is not None:
        # The ready-made ones lie beside the package, which travels alone. They keep their names, by which the study's
        # config can be submitted again, also where only those may be named.
        source = settings_file(config.base.deepspeed)
        name = source.stem if source.parent == READY_MADE and not (stage / source.stem).exists() else DEEPSPEED_NAME
        shutil.copy(source, stage / name)
        base = config.base.model_copy(update={"deepspeed": name})
        config = config.model_copy(update={"base": base})
    (stage / CONFIG_NAME).write_text(config.to_yaml(), encoding="utf-8")
    variables = {**ENVIRONMENT, **passed_on(os.environ)}
    environment: dict[str, Any] = {"working_dir": str(stage), "env_vars": variables}
    if not installed:
        environment["py_modules"] = [str(PACKAGE)]
        variables[CARRIED] = provenance().model_dump_json()
    return Package(
        entrypoint=shlex.join(["python", *entry, CONFIG_NAME, "--study", study, "--until", until, *options]),
        runtime_env=environment,
        metadata={"name": config.name, "study": study},
    )


def _copy(folder: Path, stage: Path) -> None:
    ignored = shutil.ignore_patterns(*LEFT_BEHIND)
    size = 0

    def counted(source: str, target: str) -> str:
        nonlocal size
        size += os.path.getsize(source)
        if size > LARGEST_BYTES:
            raise UserError(
                f"--working-dir {folder} holds more than {LARGEST_BYTES >> 20} MiB, the most that Ray sends along: "
                "put the data on storage that the cluster sees and name it by an absolute path or URI"
            )
        return shutil.copy2(source, target)

    try:
        shutil.copytree(folder, stage, ignore=ignored, copy_function=counted, ignore_dangling_symlinks=True)
    except OSError as error:
        raise UserError(f"--working-dir {folder}: cannot be copied: {error}") from error
