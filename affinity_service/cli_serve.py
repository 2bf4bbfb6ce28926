"""`affinity serve` and `affinity token`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from affinity_service.cli_output import VERBATIM, out, print_json

if TYPE_CHECKING:
    from affinity_service.service.auth import TokenStore

tokens = typer.Typer(no_args_is_help=True, help="Who may use the service: tokens, of which only hashes are kept.")

Root = Annotated[str, typer.Argument(help="Folder or URI that holds the studies, a sub-folder each.")]
RootOption = Annotated[str, typer.Option("--root", help="The service's root; its tokens are in .service there.")]
TokenFile = Annotated[str | None, typer.Option("--tokens", help="File of the tokens; ROOT/.service/tokens.json else.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def serve(
    root: Root,
    host: Annotated[str, typer.Option(help="Where to listen; others than this machine need tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8000,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster whose jobs run the studies, `auto` for this machine's; else a local Ray."),
    ] = None,
    tokens: TokenFile = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name that the service is reached by; needs tokens; repeatable.")
    ] = None,
    data_root: Annotated[
        list[str] | None, typer.Option(help="Folder or URI in which submitted configs may name files; repeatable.")
    ] = None,
    allow_model: Annotated[
        list[str] | None, typer.Option(help="Hub name or package:NAME/FILE that configs may name; repeatable.")
    ] = None,
    allow_python: Annotated[
        bool,
        typer.Option("--allow-python", help="Configs may name functions: writers can then run any code."),
    ] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Start and stop no studies.")] = False,
    replicas: Annotated[int, typer.Option(help="Processes that answer.", min=1, max=64)] = 1,
    dashboard: Annotated[
        str | None, typer.Option(help="URL of the cluster's dashboard, where it is not found by itself.")
    ] = None,
    installed: Annotated[bool, typer.Option("--installed", help="The cluster has this package; send no copy.")] = False,
    as_json: AsJson = False,
) -> None:
    """The REST service and the web page over the studies of a folder, until Ctrl-C."""
    from affinity_service.service.auth import TokenStore, token_file
    from affinity_service.service.launch import checked, serve_until_stopped, token_command
    from affinity_service.service.settings import ServiceSettings

    settings = checked(
        ServiceSettings(
            root=root,
            tokens=tokens,
            hosts=allow_host or [],
            data_roots=data_root or [],
            models=allow_model or [],
            allow_python=allow_python,
            can_submit=not read_only,
            replicas=replicas,
            dashboard=dashboard,
            installed=installed,
        ),
        host,
    )

    def started(url: str) -> None:
        store = None if "://" in root and tokens is None else TokenStore(token_file(root, tokens))
        needed = settings.require_tokens or (store is not None and store.configured)
        if as_json:
            print_json({"url": url, "root": settings.root, "tokens": needed})
            return
        out.print(f"Web page and REST interface: {url}", **VERBATIM)
        out.print(f"Studies: {settings.root}", **VERBATIM)
        if needed:
            out.print(f"Callers need a token; `{token_command(root, tokens)}` makes one.", **VERBATIM)
        else:
            out.print("No token is needed: only this machine, and whoever is logged in here, can ask.", **VERBATIM)
        ends = "running studies stop with it and continue when submitted again" if address is None else "jobs go on"
        out.print(f"Ctrl-C stops the service; {ends}.", **VERBATIM)

    if not as_json:
        out.print("Starting …", **VERBATIM)
    serve_until_stopped(settings, host, port, address, started)


def _store(root: str, file: str | None) -> TokenStore:
    """A root that is misspelt would be another service's, whose tokens nobody looks at."""
    from affinity_service.errors import UserError
    from affinity_service.service.auth import TokenStore, token_file

    if file is None and "://" not in root and not Path(root).expanduser().is_dir():
        raise UserError(f"--root {root}: no such folder; expected the one that `affinity serve` is given")
    return TokenStore(token_file(root, file))


@tokens.command()
def create(
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    scope: Annotated[str, typer.Option(help="read, or write: start and stop studies too.")] = "read",
    root: RootOption = ".",
    file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and show it, once."""
    from affinity_service.service.auth import shown

    token, secret = _store(root, file).create(name, scope)  # type: ignore[arg-type]
    if as_json:
        print_json({**shown(token), "token": secret})
        return
    print(secret)
    out.print(f"{token.id}, scope {token.scope}. It is not shown again: whoever has it sends it as", **VERBATIM)
    out.print("Authorization: Bearer TOKEN", **VERBATIM)


@tokens.command("list")
def list_tokens(root: RootOption = ".", file: TokenFile = None, as_json: AsJson = False) -> None:
    """The tokens by name; what they are cannot be shown."""
    from affinity_service.service.auth import shown
    from affinity_service.service.status import iso

    found = _store(root, file).tokens()
    if as_json:
        print_json({"tokens": [shown(each) for each in found]})
        return
    view = Table("id", "name", "scope", "created")
    for each in found:
        view.add_row(each.id, Text(each.name), each.scope, iso(each.created))
    out.print(view)


@tokens.command()
def revoke(
    token: Annotated[str, typer.Argument(help="Its id or name.")], root: RootOption = ".", file: TokenFile = None
) -> None:
    """Let a token in no longer, from the next request on."""
    store = _store(root, file)
    gone = store.revoke(token)
    out.print(f"revoked {gone.id} ({gone.name})", **VERBATIM)
    if not store.tokens():
        out.print(
            f"None is left, and callers still need one; without {store.path} a service of this machine alone needs "
            "none.",
            **VERBATIM,
        )
