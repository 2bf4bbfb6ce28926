"""The stages of a study in their order, and the fingerprints that say whether a result is still the one asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from affinity_service.artifacts import StudyFolder, fingerprint
from affinity_service.config import Config
from affinity_service.errors import UserError


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes
    ----------
    parts : config sections that decide the result.
    needs : what it reads: the identity of another stage's content, or `X.fingerprint` where also settings of X that
        leave its content the same are shown.
    outputs : files and folders it owns.
    entry : `module:function` in ``affinity_service.engine``; imported when it runs, so that a study that is done needs
        neither Ray nor DeepSpeed.
    version : counts changes of what the code computes.
    optional : runs only when it is itself the last stage asked for.
    """

    name: str
    parts: tuple[str, ...]
    needs: tuple[str, ...]
    outputs: tuple[str, ...]
    entry: str
    on_ray: bool = True
    version: int = 1
    optional: bool = False

    def fingerprint(self, config: Config, identities: dict[str, str]) -> str:
        parts = {name: getattr(config, name).fingerprint_part() for name in self.parts}
        return fingerprint([self.name, self.version, parts, {need: identities[need] for need in self.needs}])


STAGES = (
    Stage("base_model", ("model", "base"), ("suite",), ("base_model/",), "base_model:train_base_model"),
    Stage(
        "gradients", ("gradients",), ("suite", "base_model"), ("gradients/",), "gradients:compute_gradients", version=3
    ),
    # What is asked of a subset is the training of the base model's own section.
    Stage(
        "fits",
        ("model", "base", "fits", "affinity"),
        ("suite", "base_model", "gradients"),
        ("fits/",),
        "fits:fit_subsets_stage",
        version=4,
    ),
    Stage("affinity", (), ("fits",), ("affinity/",), "analysis:estimate_affinity", on_ray=False, version=2),
    Stage(
        "validation",
        ("validation",),
        ("suite", "base_model", "gradients", "fits"),
        # The true trainings in validation/ are named by what decides them and stay.
        ("fidelity.json",),
        "validation:validate",
        version=2,
        optional=True,
    ),
    Stage("groups", ("groups",), ("affinity",), ("groups.json",), "analysis:group_tasks", on_ray=False, version=2),
    Stage(
        "group_models",
        ("model", "base", "group_models"),
        ("suite", "base_model", "groups"),
        ("group_models/",),
        "group_models:train_group_models",
    ),
    Stage(
        "report",
        ("data",),
        ("suite", "base_model", "gradients", "fits", "affinity", "groups.fingerprint", "group_models"),
        ("report/",),
        "reporting:write_report_stage",
        on_ray=False,
    ),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def check_stage_name(name: str) -> None:
    if name not in STAGE_NAMES:
        raise UserError(f"unknown stage `{name}`; the stages are {', '.join(STAGE_NAMES)}")


def identities_of(stage: Stage, folder: StudyFolder) -> dict[str, str]:
    """What later stages may need of a finished one."""
    manifest = folder.manifest(stage.name)
    assert manifest is not None, f"{stage.name} is not finished"
    return {stage.name: manifest["identity"], f"{stage.name}.fingerprint": manifest["fingerprint"]}


def finished_stages(config: Config, suite_hash: str, folder: StudyFolder) -> Iterator[str]:
    """Names of the stages, from the first on, whose results belong to this config and suite."""
    identities = {"suite": suite_hash}
    for stage in STAGES:
        if not folder.is_done(stage.name, stage.fingerprint(config, identities)):
            if stage.optional:
                continue
            return
        yield stage.name
        identities |= identities_of(stage, folder)
