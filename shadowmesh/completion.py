"""`completion SHELL` of both commands, and what completes the words of a line: never with an error.

The scripts are click's; they run the command itself with an environment variable to ask what could come.
"""

from __future__ import annotations

from typing import Literal

import click
from click.shell_completion import ShellComplete, get_completion_class

from shadowmesh.command import completion_variable, examples

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog=examples(
        "shadowmesh-client completion bash > /etc/bash_completion.d/shadowmesh-client",
        "shadowmesh-client completion zsh > /usr/local/share/zsh/site-functions/_shadowmesh-client",
        "shadowmesh-client completion fish > ~/.config/fish/completions/shadowmesh-client.fish",
    )
)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script by which a shell completes words.

    Verbs, options, files, keys of the configuration, and names of peers if the running client may be asked.
    """
    root = context.find_root()
    name = root.info_name or ""
    made = get_completion_class(shell)(root.command, {}, name, completion_variable(name))
    # Not by the method of its own: that one runs bash to look at its version.
    click.echo(ShellComplete.source(made))
