"""The stages of a study in their order, and the fingerprints that say whether a result is still the one asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    way : of the two ways to affinities, the one that the stage is on: from gradients of a trained base model, or
        measured while it trains; both when empty.
    """

    name: str
    parts: tuple[str, ...]
    needs: tuple[str, ...]
    outputs: tuple[str, ...]
    entry: str
    on_ray: bool = True
    version: int = 1
    optional: bool = False
    way: str = ""

    def fingerprint(self, config: Config, identities: dict[str, str]) -> str:
        """Sections that the config leaves out, and needed stages that are not on its way, decide nothing."""
        sections = {name: getattr(config, name) for name in self.parts}
        parts = {name: section.fingerprint_part() for name, section in sections.items() if section is not None}
        needs = {need: identities[need] for need in self.needs if need in identities}
        return fingerprint([self.name, self.version, parts, needs])


GRADIENTS, TRAINING = "gradients", "training"
# Only of data that has to be prepared, such as a graph, whose files stand behind the need `source`.
SUITE = "suite"
STAGES = (
    Stage(SUITE, ("data",), ("source",), ("suite/", "graph/"), "suite:prepare_suite", version=3),
    Stage(
        "base_model",
        ("model", "base", "measuring", "schedule"),
        ("suite",),
        ("base_model/",),
        "base_model:train_base_model",
        version=2,
    ),
    Stage(
        "gradients",
        ("gradients",),
        ("suite", "base_model"),
        ("gradients/",),
        "gradients:compute_gradients",
        version=5,
        way=GRADIENTS,
    ),
    # What is asked of a subset is the training of the base model's own section.
    Stage(
        "fits",
        ("model", "base", "fits", "affinity"),
        ("suite", "base_model", "gradients"),
        ("fits/",),
        "fits:fit_subsets_stage",
        version=9,
        way=GRADIENTS,
    ),
    Stage(
        "affinity",
        (),
        ("fits",),
        ("affinity/",),
        "analysis:estimate_affinity",
        on_ray=False,
        version=2,
        way=GRADIENTS,
    ),
    Stage(
        "affinity",
        ("affinity", "averaging"),
        ("base_model.fingerprint",),
        ("affinity/",),
        "measured_affinity:average_measurements",
        on_ray=False,
        way=TRAINING,
    ),
    Stage(
        "validation",
        ("validation", "measuring", "averaging"),
        ("suite", "base_model", "gradients", "fits", "affinity"),
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
        version=2,
    ),
    Stage(
        "report",
        ("data",),
        ("suite", "base_model.fingerprint", "gradients", "fits", "affinity", "groups.fingerprint", "group_models"),
        ("report/",),
        "reporting:write_report_stage",
        on_ray=False,
    ),
)
STAGE_NAMES = tuple(dict.fromkeys(stage.name for stage in STAGES))


def stages_of(config: Config) -> tuple[Stage, ...]:
    """The stages on the config's way."""
    way = TRAINING if config.measured else GRADIENTS
    on_way = (stage for stage in STAGES if stage.way in ("", way))
    return tuple(stage for stage in on_way if stage.name != SUITE or config.data.prepared)


def check_stage_name(name: str, stages: Sequence[Stage] = STAGES) -> None:
    """Raises UserError for a stage that does not exist, or is not on the config's way."""
    names = list(dict.fromkeys(stage.name for stage in stages))
    if name not in names:
        raise UserError(
            f"{'no' if name in STAGE_NAMES else 'unknown'} stage `{name}`; the stages are {', '.join(names)}"
        )


def identities_of(stage: Stage, folder: StudyFolder) -> dict[str, str]:
    """What later stages may need of a finished one."""
    manifest = folder.manifest(stage.name)
    assert manifest is not None, f"{stage.name} is not finished"
    return {stage.name: manifest["identity"], f"{stage.name}.fingerprint": manifest["fingerprint"]}


def finished_stages(config: Config, suite_hash: str, folder: StudyFolder) -> Iterator[str]:
    """Names of the stages, from the first on, whose results belong to this config and suite."""
    identities = {"suite": suite_hash}
    for stage in stages_of(config):
        if stage.name == SUITE:
            # The hash stands for it; where its source lies now does not matter to what was made of it.
            yield stage.name
            continue
        if not folder.is_done(stage.name, stage.fingerprint(config, identities)):
            if stage.optional:
                continue
            return
        yield stage.name
        identities |= identities_of(stage, folder)


def estimates_identity(config: Config, folder: StudyFolder) -> str | None:
    """Stands for the estimates that the folder holds: those of the fits, or what was measured in the training."""
    manifest = folder.manifest("affinity" if config.measured else "fits")
    return None if manifest is None else manifest["identity"]
