"""`affinity import`: foreign formats into the suite's Parquet form."""

from __future__ import annotations

from typing import Annotated

import typer

from affinity_service.cli_output import VERBATIM, out

importing = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Foreign formats into the suite's Parquet form."
)

ForeignPath = Annotated[str, typer.Argument(help="The file to read; .gz too.")]
NativePath = Annotated[str, typer.Argument(metavar="OUT", help="The Parquet file to write.")]
TaskNames = Annotated[str | None, typer.Option(help="Columns that are tasks, separated by commas.")]
TaskKinds = Annotated[
    list[str] | None, typer.Option("--kind", help="NAME=binary, multiclass or regression where it is not clear.")
]
FeatureNames = Annotated[str | None, typer.Option(help="Feature columns; all other columns by default.")]
LeaveOut = Annotated[str | None, typer.Option(help="Columns that are neither features nor tasks.")]
SplitColumn = Annotated[str | None, typer.Option(help="A column of train, validation, test to keep.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]


@importing.command("arff")
def import_arff(
    path: ForeignPath,
    native: NativePath,
    labels: Annotated[str | None, typer.Option(help="Mulan XML file that lists the label attributes.")] = None,
    tasks: TaskNames = None,
    kind: TaskKinds = None,
    features: FeatureNames = None,
    leave_out: LeaveOut = None,
    split_column: SplitColumn = None,
    overwrite: Overwrite = False,
) -> None:
    """Dense or sparse ARFF, with Mulan's list of labels or named tasks."""
    from affinity_service.tasks import importing as bodies

    options = bodies.column_options(tasks, kind, features, leave_out, split_column)
    done = bodies.import_arff(path, native, overwrite, labels=labels, **options)
    out.print(str(done), **VERBATIM)


@importing.command("csv")
def import_csv(
    path: ForeignPath,
    native: NativePath,
    tasks: TaskNames = None,
    kind: TaskKinds = None,
    features: FeatureNames = None,
    leave_out: LeaveOut = None,
    split_column: SplitColumn = None,
    delimiter: Annotated[str, typer.Option(help="One character; \\t for tabs.")] = ",",
    missing: Annotated[list[str] | None, typer.Option(help="A cell that stands for no value; repeatable.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """CSV in UTF-8 with a header line."""
    from affinity_service.tasks import importing as bodies

    options = bodies.column_options(tasks, kind, features, leave_out, split_column)
    delimiter = delimiter.replace("\\t", "\t")
    done = bodies.import_csv(path, native, overwrite, delimiter=delimiter, missing=missing, **options)
    out.print(str(done), **VERBATIM)
