"""What operators' commands have in common: options from a TOML file, and results for programs.

A value comes from the command line, else from the environment (COLLABSECURE_CLIENT_SERVER), else from the file, else
it is the default. Results go to stdout once, at the end; whatever else is said goes to stderr.
"""

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from collabsecure.errors import BadFile
from collabsecure.files import unreadable

P = ParamSpec("P")
R = TypeVar("R")

_AS_JSON = "collabsecure.as_json"  # in the click context's meta, where `emit` finds it


def operator_options(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command --config and --json. It gets no arguments from them: the file fills in its other options.

    Put it below `@click.command` and end the command with `emit`.
    """
    with_json = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_remember_json,
        help="End with one JSON object on standard output.",
    )(command)
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,  # before the options that it has values for
        expose_value=False,
        callback=_fill_in,
        help="TOML file with options: long names without the dashes in front. What is given here, or in the "
        "environment, goes before it.",
    )(with_json)


def emit(result: Mapping[str, object], text: str) -> None:
    """End a command: the result as one line of JSON where --json was given, else `text`; on standard output."""
    as_json = click.get_current_context().meta.get(_AS_JSON, False)
    click.echo(json.dumps(result, ensure_ascii=False) if as_json else text)


def _remember_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_AS_JSON] = value


def _fill_in(ctx: click.Context, config: click.Parameter, path: Path | None) -> None:
    """Make a file's values the command's defaults."""
    if path is None:
        return
    known = {
        name[2:].replace("-", "_"): parameter
        for parameter in ctx.command.params
        if isinstance(parameter, click.Option) and parameter is not config
        for name in parameter.opts
        if name.startswith("--")
    }
    defaults: dict[str, object] = {}
    for key, value in read_toml(path).items():
        option = known.get(key.replace("-", "_"))
        if option is None or option.name is None:
            names = ", ".join(sorted(name.replace("_", "-") for name in known))
            raise BadFile(path, found=f"the key {key!r}", expected=f"options of {ctx.command_path}: {names}")
        if option.name in defaults:
            raise BadFile(path, found=f"{key!r} twice, with - and with _", expected="each option once")
        defaults[option.name] = _as_typed(path, key, value, option)
    ctx.default_map = defaults


def read_toml(path: Path) -> dict[str, object]:
    """A TOML file's tables and values.

    Raises:
        BadFile: it cannot be read, or is no TOML in UTF-8.
    """
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:  # TOML's errors and UTF-8's are ValueErrors
        raise BadFile(path, found=f"no TOML ({error})", expected="TOML in UTF-8") from error


def _as_typed(path: Path, key: str, value: object, option: click.Option) -> object:
    """A value in the form in which the command line has it, so that it is read and refused alike."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise BadFile(path, found=f"{key} = {value!r}", expected="true or false")
        return value
    values = value if option.multiple and isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) and not isinstance(item, bool) for item in values):
        expected = "a list of texts or numbers" if option.multiple else "one text or number"
        raise BadFile(path, found=f"{key} = {value!r}", expected=expected)
    texts = [str(item) for item in values]
    return texts if option.multiple else texts[0]
