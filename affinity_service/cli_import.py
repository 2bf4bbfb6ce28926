"""`affinity import`: foreign formats into the native Parquet form of suites, graphs and texts."""

from __future__ import annotations

from typing import Annotated

import typer

from affinity_service.cli_output import VERBATIM, out

importing = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Foreign formats into the native Parquet form of suites, graphs and texts.",
)

ForeignPath = Annotated[str, typer.Argument(help="The file to read; .gz too.")]
MatPath = Annotated[str, typer.Argument(metavar="FILE", help="The file to read.")]
NativePath = Annotated[str, typer.Argument(metavar="OUT", help="The Parquet file to write.")]
TaskNames = Annotated[str | None, typer.Option(help="Columns that are tasks, separated by commas.")]
TaskKinds = Annotated[
    list[str] | None, typer.Option("--kind", help="NAME=binary, multiclass or regression where it is not clear.")
]
FeatureNames = Annotated[str | None, typer.Option(help="Feature columns; all other columns by default.")]
LeaveOut = Annotated[str | None, typer.Option(help="Columns that are neither features nor tasks.")]
SplitColumn = Annotated[str | None, typer.Option(help="A column of train, validation, test to keep.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")]
GraphFolder = Annotated[str, typer.Argument(metavar="OUT", help="The folder of Parquet tables to write.")]
Largest = Annotated[int | None, typer.Option(help="Only so many of the largest tasks.", min=1)]
Induced = Annotated[bool, typer.Option("--induced", help="Only the tasks' nodes, and the edges between them.")]
Directed = Annotated[bool, typer.Option("--directed", help="An edge back is another edge.")]


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


@importing.command("snap")
def import_snap(
    edges: Annotated[str, typer.Argument(help="Two node ids per line; .gz too.")],
    communities: Annotated[str, typer.Argument(help="A line of node ids each, or JSON labels by node; .gz too.")],
    native: GraphFolder,
    largest: Largest = None,
    induced: Induced = False,
    directed: Directed = False,
    overwrite: Overwrite = False,
) -> None:
    """A graph of the SNAP collection: an edge list and its communities."""
    from affinity_service.graphs import importing as bodies
    from affinity_service.graphs.snap import read_snap

    done = bodies.import_graph(lambda: read_snap(edges, communities), native, overwrite, largest, induced, directed)
    out.print(str(done), **VERBATIM)


@importing.command("mat")
def import_mat(
    path: MatPath,
    native: GraphFolder,
    network: Annotated[str, typer.Option(help="Variable of the adjacency matrix.")] = "network",
    labels: Annotated[str, typer.Option(help="Variable of the matrix of labels by node.")] = "group",
    largest: Largest = None,
    induced: Induced = False,
    directed: Directed = False,
    overwrite: Overwrite = False,
) -> None:
    """A graph in a MATLAB file of version 4 to 7.2."""
    from affinity_service.graphs import importing as bodies
    from affinity_service.graphs.matlab import read_matlab

    done = bodies.import_graph(
        lambda: read_matlab(path, network, labels), native, overwrite, largest, induced, directed
    )
    out.print(str(done), **VERBATIM)


@importing.command("pyg")
def import_pyg(
    path: Annotated[
        str, typer.Argument(metavar="FILE.pt", help="A PyTorch Geometric Data object, as torch.save has it.")
    ],
    native: GraphFolder,
    names: Annotated[str | None, typer.Option(help="Of the classes or columns of y, separated by commas.")] = None,
    largest: Largest = None,
    induced: Induced = False,
    directed: Directed = False,
    overwrite: Overwrite = False,
) -> None:
    """A PyTorch Geometric graph: edges, labels, features and masks."""
    from affinity_service.graphs import importing as bodies
    from affinity_service.graphs.pyg import read_pyg
    from affinity_service.tasks.importing import split_names

    done = bodies.import_graph(
        lambda: read_pyg(path, split_names(names)), native, overwrite, largest, induced, directed
    )
    out.print(str(done), **VERBATIM)


@importing.command("jsonl")
def import_jsonl(
    path: Annotated[str, typer.Argument(metavar="IN", help="A file of JSON lines, .gz too, or a folder of them.")],
    native: NativePath,
    task: Annotated[str, typer.Option(help="The column of the task.")] = "task",
    input: Annotated[str, typer.Option(help="The column of what is read.")] = "input",
    target: Annotated[str, typer.Option(help="The column of what is learned.")] = "target",
    messages: Annotated[str, typer.Option(help="The column of a chat, in place of both.")] = "messages",
    split_column: SplitColumn = None,
    overwrite: Overwrite = False,
) -> None:
    """Texts: a line per question and answer of a task, or per conversation."""
    from affinity_service.config_text_suites import ColumnNames
    from affinity_service.text import importing as bodies

    columns = ColumnNames(task=task, input=input, target=target, messages=messages)
    out.print(str(bodies.import_jsonl(path, native, overwrite, columns, split_column)), **VERBATIM)


@importing.command("function-vectors")
def import_function_vectors(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="JSON files, a task each: lists of {input, output}.")],
    native: NativePath,
    overwrite: Overwrite = False,
) -> None:
    """The tasks of the function-vectors collection, in whichever folders they lie."""
    from affinity_service.text import importing as bodies

    out.print(str(bodies.import_function_vectors(folder, native, overwrite)), **VERBATIM)
