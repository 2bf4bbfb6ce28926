"""The command line. Exit code 0: done, 2: something the user can change, 1: a failure."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from affinity_service import logs as logs_as
from affinity_service.cli_doctor import doctor
from affinity_service.cli_import import importing
from affinity_service.cli_output import (
    VERBATIM,
    err,
    out,
    print_fidelity,
    print_groups,
    print_job,
    print_json,
    print_networks,
    print_requests,
    right,
)
from affinity_service.cli_serve import serve, tokens
from affinity_service.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Which tasks to train together, told from gradients at one base model.",
)
app.add_typer(importing, name="import")
app.command()(doctor)
app.add_typer(tokens, name="token")
app.command()(serve)

ConfigPath = Annotated[Path, typer.Argument(help="YAML config; ray_jobs/configs holds ready ones.")]
StudyPath = Annotated[str, typer.Argument(help="Study folder, or a URI such as s3://bucket/study.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to use, `auto` for the one this machine belongs to; else a local Ray."),
]

Until = Annotated[str, typer.Option(help="Last stage to run, such as affinity or groups.")]


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done; tracebacks for errors.")] = False,
    log_format: Annotated[
        str | None,
        typer.Option(envvar=logs_as.FORMAT, help="text, or json: a line of JSON per record, also of workers."),
    ] = None,
) -> None:
    if log_format is not None:
        os.environ[logs_as.FORMAT] = logs_as.log_format(log_format)
    logs_as.begin_logging()
    if verbose:
        logging.getLogger("affinity_service").setLevel(logging.INFO)
        os.environ["AFFINITY_TRACEBACK"] = "1"


@app.command()
def run(
    config: ConfigPath,
    study: Annotated[str | None, typer.Option(help="Study folder; studies/<config name> by default.")] = None,
    address: Address = None,
    until: Until = "report",
    as_json: AsJson = False,
) -> None:
    """Run the whole way, or what of it is not done yet."""
    opened = _run(_load(config), study, address, as_json, until)
    finished = until == "report"
    if as_json:
        result = {"groups": opened.groups, "report": opened.report_path} if finished else {}
        print_json({"study": opened.folder.root, **result})
    elif finished:
        print_groups(opened.groups, opened.folder.read_json("groups.json"))
        out.print(f"\nReport: {opened.report_path}", **VERBATIM)
    else:
        out.print(f"Study: {opened.folder.root}, up to {until}", **VERBATIM)


@app.command()
def plan(
    config: ConfigPath,
    study: Annotated[str | None, typer.Option(help="Study folder; studies/<config name> by default.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Say too what each stage asks of this Ray cluster, and what it has.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run on this machine will take, or refuse what cannot fit; nothing is started or written."""
    from affinity_service.artifacts import StudyFolder
    from affinity_service.config_models import check_inputs
    from affinity_service.planning import feasible_plan
    from affinity_service.planning.view import assumptions, plan_table
    from affinity_service.tasks.source import planned_suite

    settings = _load(config)
    suite = planned_suite(settings.data)
    check_inputs(settings.model, suite.inputs.shape[1:])
    expected = feasible_plan(settings, suite, StudyFolder.at(study or Path("studies", settings.name)))
    asked = None
    if address is not None:
        from affinity_service.engine.group_trials import is_batched
        from affinity_service.engine.requests import requests_at

        asked = requests_at(address, settings, not is_batched(settings, suite))
    if as_json:
        print_json({**expected.to_dict(), **({"cluster": asdict(asked)} if asked else {})})
        return
    out.print(plan_table(expected))
    out.print(assumptions(expected), markup=False, highlight=False)
    if asked:
        print_requests(asked)


@app.command()
def predict(
    study: StudyPath,
    tasks: Annotated[str, typer.Option(help="Names separated by commas.")],
    as_json: AsJson = False,
) -> None:
    """Predict each task's loss if a model were trained with exactly these tasks."""
    table = _open(study).predict([name.strip() for name in tasks.split(",") if name.strip()])
    if as_json:
        print_json(table.to_dict("records"))
        return
    view = Table("task", *(right(x) for x in ("predicted loss", "± standard error", "predicted alone", "gain")))
    for row in table.itertuples():
        numbers = (row.predicted_loss, row.standard_error, row.alone, row.alone - row.predicted_loss)
        view.add_row(Text(str(row.task)), *(f"{value:.4f}" for value in numbers))
    out.print(view)
    unit = table.attrs.get("unit", "nats")
    out.print(f"Validation loss in {unit}, lower is better; gain = alone − predicted, positive where company helps.")


@app.command()
def partners(
    study: StudyPath,
    task: Annotated[str, typer.Option(help="The target.")],
    size: Annotated[int, typer.Option(help="Partners at most.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Find the tasks that help one target most, without training."""
    table = _open(study).best_partners(task, size)
    alone = table.attrs["alone"]
    if as_json:
        print_json({"task": task, "alone": alone, "partners": table.to_dict("records")})
        return
    view = Table("partner", *(right(x) for x in ("predicted loss of the target", "gain")))
    view.add_row(Text("(alone)"), f"{alone:.4f}", "")
    for row in table.itertuples():
        view.add_row(Text(str(row.partner)), f"{row.predicted_loss:.4f}", f"{row.gain:.4f}")
    out.print(view)
    out.print("Each partner is the best beside those above it." if len(table) else "No partner is predicted to help.")


@app.command()
def networks(
    study: StudyPath,
    budget: Annotated[int, typer.Option(help="Networks at most; a task may be in several.")],
    method: Annotated[str, typer.Option(help="direct (predicted losses) or pairs (averaged affinities).")] = "direct",
    as_json: AsJson = False,
) -> None:
    """Choose overlapping networks within a budget, without training."""
    found = _open(study).networks(budget, method)
    print_json(asdict(found)) if as_json else print_networks(found)


@app.command()
def group(
    study: StudyPath,
    k: Annotated[str | None, typer.Option(help="Number of groups, or auto; as in the config when absent.")] = None,
    method: Annotated[str | None, typer.Option(help="sdp, direct, spectral, agglomerative or random.")] = None,
    min_size: Annotated[int | None, typer.Option(help="Tasks per group, at least.")] = None,
    max_size: Annotated[int | None, typer.Option(help="Tasks per group, at most.")] = None,
    as_json: AsJson = False,
) -> None:
    """Group the tasks again and store the groups; `train-groups` then trains them."""
    from affinity_service.config import Config

    opened = _open(study)
    opened.require("affinity")
    content = opened.config.model_dump(mode="json")
    wanted = {"k": int(k) if k and k.isdigit() else k, "method": method, "min_size": min_size, "max_size": max_size}
    content["groups"] |= {name: value for name, value in wanted.items() if value is not None}
    if method not in (None, "direct"):
        content["groups"]["probe"] = False
    config = Config.parse(content, origin="options")
    opened = _run(config, opened.folder.root, None, True, "groups")
    stored = opened.folder.read_json("groups.json")
    print_json(stored) if as_json else print_groups(stored["groups"], stored)


@app.command("train-groups")
def train_groups(study: StudyPath, address: Address = None, as_json: AsJson = False) -> None:
    """Train one model per group and compare with joint, single-task and randomly grouped training."""
    opened = _open(study)
    opened = _run(opened.config, opened.folder.root, address, as_json, "report")
    from affinity_service.evaluation.outcomes import gains
    from affinity_service.tables import read_table

    results = read_table(opened.folder, "group_models/results.parquet").to_pandas()
    found = gains(results, opened.tasks)
    if as_json:
        print_json({name: {"gain": mean, "interval": half} for name, (mean, half) in found.items()})
        return
    for baseline, (mean, half) in found.items():
        out.print(f"test loss, groups against {baseline}: gain {mean:+.4f} ± {half:.4f}", highlight=False)


@app.command()
def validate(
    study: StudyPath,
    subsets: Annotated[int | None, typer.Option(help="Subsets to train for real.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds whose mean is the truth; as many more check it.")] = None,
    start: Annotated[str | None, typer.Option(help="base: fine-tune the base model; initial: from scratch.")] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Train sampled subsets for real and measure the estimates by them."""
    from affinity_service.config import Config

    opened = _open(study)
    opened.require("fits")
    content = opened.config.model_dump(mode="json")
    given = {"subsets": subsets, "seeds": seeds, "start": start}
    content["validation"] |= {key: value for key, value in given.items() if value is not None}
    opened = _run(Config.parse(content, origin="options"), opened.folder.root, address, as_json, "validation")
    fidelity = opened.folder.read_json("fidelity.json")
    from affinity_service.report import write_report

    write_report(opened.folder)
    if as_json:
        print_json(fidelity)
    else:
        print_fidelity(fidelity)
        out.print(f"\nReport: {opened.report_path}", **VERBATIM)


@app.command()
def report(study: StudyPath) -> None:
    """Write the HTML report of what is done and say where it lies."""
    opened = _open(study)
    from affinity_service.report import write_report

    write_report(opened.folder)
    out.print(opened.report_path, **VERBATIM)


JobId = Annotated[str, typer.Argument(help="What `affinity submit` printed.")]
Dashboard = Annotated[
    str,
    typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard, such as http://HEAD:8265."),
]
Follow = Annotated[bool, typer.Option("--follow", help="Stay and pass the log on until the job is over.")]


@app.command()
def submit(
    config: ConfigPath,
    address: Dashboard,
    study: Annotated[str | None, typer.Option(help="Study folder that every node sees, or a URI.")] = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="Folder to send along: your module, data that the config names relatively.")
    ] = None,
    installed: Annotated[bool, typer.Option("--installed", help="The cluster has this package; send no copy.")] = False,
    until: Until = "report",
    follow: Follow = False,
    as_json: AsJson = False,
) -> None:
    """Run the whole way as a Ray job on a cluster."""
    jobs = _jobs(address)
    job = jobs.submit(config, study, working_dir, installed, until)
    if not as_json:
        out.print(f"Job {job.id} works on the study {job.study}", **VERBATIM)
        out.print(f"affinity logs {job.id} --address {address} --follow", **VERBATIM)
    elif not follow:
        print_json({"id": job.id, "study": job.study})
    if follow:
        _follow(jobs, job.id, as_json)


@app.command()
def status(job: JobId, address: Dashboard, as_json: AsJson = False) -> None:
    """How a job goes."""
    print_job(_jobs(address).state(job), as_json)


@app.command()
def logs(job: JobId, address: Dashboard, follow: Follow = False) -> None:
    """What a job has printed."""
    jobs = _jobs(address)
    if follow:
        _follow(jobs, job, False)
    else:
        print(jobs.logs(job), end="")


@app.command()
def cancel(job: JobId, address: Dashboard, as_json: AsJson = False) -> None:
    """Stop a job; its study keeps what is finished and can be run again."""
    print_job(_jobs(address).cancel(job), as_json)


def main() -> None:
    sys.exit(attempt(lambda: app(standalone_mode=False)))


def attempt(action: Callable[[], Any]) -> int:
    """Do it and return the exit code; what went wrong is on standard error, without a traceback."""
    try:
        # Click hands back the code of typer.Exit; commands themselves return nothing.
        code = action()
        return code if isinstance(code, int) else 0
    except UserError as error:
        return _fail(error, 2)
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; the same command continues where it stopped")
        return 1
    except Exception as error:
        # Wrong usage. Typer brought its own copy of Click's exceptions, so the class depends on its version.
        if any(base.__name__ == "ClickException" for base in type(error).__mro__):
            error.show()  # type: ignore[attr-defined]
            return int(error.exit_code)  # type: ignore[attr-defined]
        return _fail(error, 1)


def _fail(error: Exception, code: int) -> int:
    if os.environ.get("AFFINITY_TRACEBACK"):
        err.print_exception()
    message = str(error) or type(error).__name__
    err.print("[red]error:[/] ", end="")
    err.print(message if isinstance(error, UserError) else f"{type(error).__name__}: {message}", **VERBATIM)
    if code == 1:
        err.print("Finished stages are kept; `affinity -v …` shows the traceback.")
    return code


def _load(path: Path) -> Any:
    from affinity_service.config import Config

    return Config.load(path)


def _open(study: str) -> Any:
    from affinity_service.study import Study

    return Study.open(study)


def _run(config: Any, study: str | None, address: str | None, quiet: bool, until: str) -> Any:
    from affinity_service.reporter import LogReporter, RichReporter
    from affinity_service.study import Study

    if quiet or logs_as.wants_json() or not out.is_terminal:
        if logs_as.wants_json() or not quiet:
            # No terminal for a progress bar: a file or a job's log gets its lines.
            logging.getLogger("affinity_service").setLevel(logging.INFO)
        return Study.run(config, study, address, LogReporter(), until)
    reporter = RichReporter(out)
    try:
        return Study.run(config, study, address, reporter, until)
    finally:
        reporter.close()


def _jobs(address: str) -> Any:
    from affinity_service.engine.jobs import Jobs

    return Jobs(address)


def _follow(jobs: Any, job: str, as_json: bool) -> None:
    """The log as it grows, beside the JSON where there is some; leaves with 1 when the job fails."""
    stream = sys.stderr if as_json else sys.stdout
    try:
        state = jobs.follow(job, lambda lines: print(lines, end="", flush=True, file=stream))
    except KeyboardInterrupt:
        err.print(f"job {job} goes on; `affinity cancel {job} --address {jobs.address}` stops it", **VERBATIM)
        raise typer.Exit(1) from None
    print_job(state, as_json)
    if not state.succeeded:
        raise typer.Exit(1)
